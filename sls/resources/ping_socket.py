"""Ping sockets of icmp(7), over IPv4 and IPv6: ICMP echo without rights; the identifier of the requests is the port.

Not kept: answers that were not read yet, told.
Kernel: Linux 3.11 (IPv6).
"""

import errno
import socket

from sls.errors import RestoreConflictError
from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext
from sls.resources.inet.address import InetAddress, bind, local_address
from sls.resources.raw_socket import attempt, remote_of, tell_unread
from sls.resources.socket_options import (
    SocketOption,
    is_socket,
    restore_options,
    socket_view,
    strerror,
)
from sls.resources.socket_sight import capture_options, socket_kind

_PROTOCOLS = (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)


class PingSocketRecord(FileRecord, frozen=True, tag="ping_socket"):
    """One ping socket. The port of `local` is the identifier; None before the first request."""

    domain: int
    protocol: int
    local: InetAddress | None
    remote: InetAddress | None
    options: tuple[SocketOption, ...]


class PingSocket(FileType[PingSocketRecord]):
    """Echo requests."""

    record = PingSocketRecord
    is_of_sockets = True

    def matches(self, file: OpenFile) -> bool:
        if not is_socket(file):
            return False
        kind = socket_kind(file)
        is_inet = kind.domain in (socket.AF_INET, socket.AF_INET6)
        return is_inet and kind.type == socket.SOCK_DGRAM and kind.protocol in _PROTOCOLS

    def capture(self, ctx: CaptureContext, file: OpenFile) -> PingSocketRecord:
        with socket_view(file.descriptor) as view:
            tell_unread(ctx, file, "a ping socket")
            return PingSocketRecord(
                file_id=file.file_id,
                flags=file.flags,
                domain=view.family,
                protocol=view.proto,
                local=local_address(view),
                remote=remote_of(file, view.family),
                options=capture_options(ctx, file),
            )

    def restore(self, ctx: RestoreContext, record: PingSocketRecord) -> int:
        with _opened(record) as view:
            restore_options(ctx, view.fileno(), record.options)
            if record.local is not None:
                bind(view, record.local)
            if record.remote is not None:
                attempt(record.domain, record.remote, view.connect)
            return view.detach()


def _opened(record: PingSocketRecord) -> socket.socket:
    try:
        return socket.socket(record.domain, socket.SOCK_DGRAM, record.protocol)
    except OSError as error:
        raise RestoreConflictError(
            f"a ping socket cannot be made: {strerror(error)}; see net.ipv4.ping_group_range (sysctl)",
            error.errno or errno.EPERM,
        ) from error
