"""What a killed program's TCP connections leave behind: sockets without a descriptor in FIN_WAIT, LAST_ACK, TIME_WAIT.

They keep a port without SO_REUSEADDR from being bound, and an address pair from being connected, for minutes (tcp(7)).
"""

import socket

from sls import sock_diag


def end_orphans(port: int, remote_port: int = 0) -> bool:
    """Abort them on a local port, or only those to `remote_port`; False when there are none, or somebody listens."""
    found = [
        one
        for family in (socket.AF_INET, socket.AF_INET6)
        for one in sock_diag.tcp_sockets(family, port)
        if not remote_port or one.remote_port == remote_port
    ]
    if any(one.state == sock_diag.TCP_LISTEN for one in found):
        return False
    orphans = [one for one in found if not one.inode]
    for one in orphans:
        sock_diag.destroy(one)
    return bool(orphans)
