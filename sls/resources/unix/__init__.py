"""Sockets of unix(7): `socket` has the record; `address` names, `pair` connections, `messages` queues."""
