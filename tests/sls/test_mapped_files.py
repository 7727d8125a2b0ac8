"""Mapped files as they are now: with whose rights, and which version."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sls.mapped_files import MappedFiles, running_vdso
from sls.resources.memory import FileVersion

USER = 12345


def version(path: Path) -> FileVersion:
    stat = path.stat()
    return FileVersion(path=bytes(path), size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)


def test_a_file_is_read_while_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    files, kept = MappedFiles(0, 0), version(path)
    assert files.is_same(kept)
    assert files.read(kept, 3, 4) == b"3456"
    assert files.read(kept, 8, 100) == b"89"
    os.utime(path, ns=(0, kept.mtime_ns + 1))
    assert not files.is_same(kept)
    assert files.read(kept, 0, 1) is None
    path.unlink()
    assert not files.is_same(kept)
    os.mkfifo(path)
    assert not files.is_same(kept), "a FIFO does not hold the reader"


@pytest.mark.root
def test_a_user_reads_only_what_he_may() -> None:
    """Whoever owns the partition may put a link to another's file of equal size and time where his own was."""
    with TemporaryDirectory(prefix="sls-test-") as name:
        Path(name).chmod(0o755)
        secret, own, link = (Path(name) / one for one in ("secret", "own", "link"))
        secret.write_bytes(b"secret")
        own.write_bytes(b"public")
        link.symlink_to(secret)
        groups = os.getgroups()
        for mode, expected in ((0o600, None), (0o640, None), (0o644, b"secret")):
            secret.chmod(mode)
            assert MappedFiles(0, 0).read(version(link), 0, 6) == b"secret"
            assert MappedFiles(USER, USER).read(version(link), 0, 6) == expected
        closed = Path(name) / "closed"
        closed.mkdir(0o750)
        secret.rename(closed / "secret")
        assert MappedFiles(USER, USER).read(version(closed / "secret"), 0, 6) is None
        assert MappedFiles(USER, USER).read(version(own), 0, 6) == b"public"
        assert os.getgroups() == groups
        assert (closed / "secret").read_bytes() == b"secret", "root's own rights are back"


def test_the_vdso_is_an_elf_image() -> None:
    assert running_vdso().startswith(b"\x7fELF")
