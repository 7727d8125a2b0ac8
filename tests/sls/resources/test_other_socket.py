"""Every family that is not kept is refused with its name."""

import socket

import pytest

from tests.sls.conftest import Refused

CASES = [
    (socket.AF_VSOCK, socket.SOCK_STREAM, 0, "AF_VSOCK"),
    (socket.AF_ALG, socket.SOCK_SEQPACKET, 0, "AF_ALG"),
    (socket.AF_INET, socket.SOCK_STREAM, 262, "MPTCP"),
    (socket.AF_INET, socket.SOCK_DGRAM, 136, "UDP-Lite"),
    (socket.AF_INET, socket.SOCK_STREAM, 132, "SCTP"),
    (socket.AF_NETLINK, socket.SOCK_RAW, 9, "AF_NETLINK"),
    (socket.AF_KEY, socket.SOCK_RAW, 2, "AF_KEY"),
    (socket.AF_CAN, socket.SOCK_RAW, 1, "AF_CAN"),
    (socket.AF_BLUETOOTH, socket.SOCK_RAW, 1, "AF_BLUETOOTH"),
    (socket.AF_TIPC, socket.SOCK_STREAM, 0, "AF_TIPC"),
    (44, socket.SOCK_RAW, 0, "AF_XDP"),
]


def is_offered(family: int, kind: int, protocol: int) -> bool:
    try:
        socket.socket(family, kind, protocol).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "name"), CASES, ids=[name for *_, name in CASES]
)
def test_x26_refused_by_name(
    refused: Refused, family: int, kind: int, protocol: int, name: str
) -> None:
    if not is_offered(family, kind, protocol):
        pytest.skip(f"this kernel has no sockets of {name}")
    assert name in refused("other_socket.py", family, int(kind), protocol)
