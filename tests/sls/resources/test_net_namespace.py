"""Network namespaces: loopback, settings, sockets inside; other devices and addresses are refused."""

import shutil

import pytest

from tests.sls.conftest import Kept, Refused


@pytest.mark.parametrize("mode", ["kept", "down"])
def test_net_namespace(kept: Kept, mode: str) -> None:
    assert not kept("net_namespace.py", mode).notes


@pytest.mark.skipif(not shutil.which("ip"), reason="ip(8) is missing: install iproute2")
@pytest.mark.parametrize(
    ("mode", "words"), [("device", "the device d0"), ("address", "the address 10.9.8.7")]
)
def test_x26_more_than_loopback(refused: Refused, mode: str, words: str) -> None:
    assert f"a net namespace of its own with {words} cannot" in refused("net_namespace.py", mode)
