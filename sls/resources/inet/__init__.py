"""Sockets of ip(7) and ipv6(7): TCP in `tcp`, UDP in `udp`. Others (raw, SCTP, MPTCP) are refused by name."""
