"""A socket of a family that is not kept: CASE is its family, type and protocol."""

import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go

family, kind, protocol = map(int, CASE)
found = socket.socket(family, kind, protocol)
wait_for_go()
expect("type", found.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE), kind)
finish()
