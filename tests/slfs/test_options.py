"""The command line of slfs, by hand and by mount(8)."""

from pathlib import Path

import pytest

from slfs.options import MountRequest, UsageError, parse_command_line


def parse(*words: str) -> MountRequest:
    request = parse_command_line(words)
    assert request is not None
    return request


def test_places_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    request = parse("a.slos", "mnt", "-f")
    assert (request.store, request.mountpoint) == (tmp_path / "a.slos", tmp_path / "mnt")
    assert request.foreground


def test_mount_8_adds_options_of_its_own() -> None:
    request = parse("/s", "/m", "-o", "rw,noexec,x-systemd.automount,user=joe,ro")
    assert request.options == {"noexec", "ro"}
    assert request.is_read_only
    assert parse("-oro", "/s", "/m").is_read_only


def test_what_libfuse_gets() -> None:
    options = parse("/a,b\\c.slos", "/m").fuse_options()
    assert "fsname=/a\\,b\\\\c.slos" in options
    assert {"subtype=slfs", "default_permissions", "allow_other"} <= options
    assert "allow_other" not in parse("/s", "/m", "-o", "allow_root").fuse_options()


@pytest.mark.parametrize(
    "words",
    [(), ("/s",), ("/s", "/m", "/x"), ("/s", "/m", "-o"), ("/s", "/m", "-o", "odd"), ("-x",)],
    ids=repr,
)
def test_misuse(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        parse_command_line(words)


def test_help_is_no_misuse() -> None:
    assert parse_command_line(["--help"]) is None
