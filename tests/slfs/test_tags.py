"""Tags and retention: names that pin generations, made with ln and rm; counts and ages that let go."""

import errno
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from libsls import protocol
from libsls.protocol import ProtocolError
from tests.mounts import MakeMount, Mounted
from tests.slfs.conftest import Spawn
from tests.slfs.history import take

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture
def partition(mounted: Mounted, spawn: Spawn) -> Path:
    partition = mounted.partition(1, create=True)
    (partition / "attach").write_text(f"{spawn().pid}\n")
    for _ in range(3):
        take(partition)
    return partition


def epochs(partition: Path) -> list[int]:
    names = os.listdir(partition / "generations")
    return sorted(int(name) for name in names if name.isdecimal())


def failing_errno(action: Callable[[], object]) -> int | None:
    try:
        action()
    except OSError as error:
        return error.errno
    return None


def test_a_tag_is_a_link_to_its_generation(partition: Path) -> None:
    tags = partition / "tags"
    assert os.listdir(tags) == []
    subprocess.run(["ln", "-s", "../generations/2", tags / "good"], check=True)
    assert os.readlink(tags / "good") == "../generations/2"
    assert (tags / "good" / "info").read_bytes() == (partition / "generations/2/info").read_bytes()
    subprocess.run(["ln", "-sfn", "../generations/3", tags / "good"], check=True)
    subprocess.run(["mv", tags / "good", tags / "better"], check=True)
    assert {name: os.readlink(tags / name) for name in os.listdir(tags)} == {
        "better": "../generations/3"
    }
    subprocess.run(["rm", tags / "better"], check=True)
    assert os.listdir(tags) == []
    log = (partition / "log").read_text()
    assert "generation 2 tagged good" in log
    assert "tag better removed" in log


NO_TAGS = (
    ("x", "../generations/9", errno.ENOENT),
    ("x", "../generations/latest", errno.EINVAL),
    ("x", "../generations/0", errno.EINVAL),
    ("x", "../generations/../../2", errno.EINVAL),
    ("x", "/etc/shadow", errno.EINVAL),
    ("x", "../../2/generations/1", errno.EINVAL),
    ("x", "3", errno.EINVAL),
    ("here", "../generations/1", errno.EEXIST),
    ("a\nb", "../generations/1", errno.EINVAL),
    ("n" * 256, "../generations/1", errno.ENAMETOOLONG),
)


def test_what_is_no_tag(partition: Path) -> None:
    tags = partition / "tags"
    (tags / "here").symlink_to("../generations/1")
    for name, target, code in NO_TAGS:
        assert failing_errno(partial(os.symlink, target, tags / name)) == code, (name, target)
    assert failing_errno(lambda: os.symlink("../generations/1", os.fsencode(tags) + b"/\xff")) == (
        errno.EINVAL
    )
    assert os.listdir(tags) == ["here"]


def test_only_links_are_made_in_tags(partition: Path) -> None:
    tags = partition / "tags"
    (tags / "here").symlink_to("../generations/1")
    for action in (
        lambda: (tags / "file").touch(),
        lambda: (tags / "directory").mkdir(),
        lambda: os.link(partition / "generations/1/info", tags / "hard"),
        lambda: (tags / "here").rename(partition / "generations/x"),
    ):
        assert failing_errno(action) in (errno.EPERM, errno.EACCES, errno.EXDEV, errno.EROFS)
    assert failing_errno((tags / "missing").unlink) == errno.ENOENT
    assert os.listdir(tags) == ["here"]


def test_a_tag_pins_its_generation(partition: Path) -> None:
    tags, generations = partition / "tags", partition / "generations"
    for name in ("good", "fine"):
        (tags / name).symlink_to("../generations/1")
    assert failing_errno((generations / "1").rmdir) == errno.EBUSY
    assert "generation 1 is tagged fine" in (partition / "log").read_text()
    (partition / "retain").write_text("1")
    take(partition)
    assert epochs(partition) == [1, 4]
    (tags / "good").unlink()
    take(partition)
    assert epochs(partition) == [1, 5]
    (tags / "fine").unlink()
    take(partition)
    assert epochs(partition) == [6]


def test_tags_outlive_the_daemon(make_mount: MakeMount, spawn: Spawn) -> None:
    mounted = make_mount().mount()
    partition = mounted.partition(1, create=True)
    (partition / "attach").write_text(f"{spawn().pid}\n")
    take(partition)
    (partition / "tags" / "good").symlink_to("../generations/1")
    (partition / "retain").write_text("1")
    mounted.unmount()
    mounted.mount()
    assert os.readlink(partition / "tags" / "good") == "../generations/1"
    (partition / "attach").write_text(f"{spawn().pid}\n")
    for _ in range(2):
        take(partition)
    assert epochs(partition) == [1, 3]


def test_retention_by_age(partition: Path) -> None:
    (partition / "retain").write_text("1h:1 1d:7\n")
    assert (partition / "retain").read_text() == "1h:1 1d:7\n"
    take(partition)
    assert epochs(partition)[-1] == 4
    assert len(epochs(partition)) <= 3, "the oldest of this hour and of this day, and the newest"
    (partition / "retain").write_text("0")
    assert (partition / "retain").read_text() == "0\n"


@pytest.mark.parametrize("text", ["1s", "1s:0", "0s:1", "1y:1", "1s:60 5", "-1s:1", "1s:", ":"])
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ProtocolError):
        protocol.parse_retain(text.encode())
