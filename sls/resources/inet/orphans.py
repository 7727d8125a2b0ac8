"""What a killed program's TCP connections leave behind: sockets without a descriptor in FIN_WAIT, LAST_ACK, TIME_WAIT.

They keep a port without SO_REUSEADDR from being bound, and an address pair from being connected, for minutes (tcp(7)).
"""

import socket
from collections.abc import Collection

from sls import sock_diag


def end_orphans(port: int, remote_ports: Collection[int] = ()) -> bool:
    """Abort them on a local port, or only those to `remote_ports`; False when there are none, or somebody listens."""
    found = [
        one
        for family in (socket.AF_INET, socket.AF_INET6)
        for one in sock_diag.tcp_sockets(family, port)
        if not remote_ports or one.remote_port in remote_ports
    ]
    if any(one.state == sock_diag.TCP_LISTEN for one in found):
        return False
    orphans = [one for one in found if not one.inode]
    for one in orphans:
        sock_diag.destroy(one)
    return bool(orphans)
