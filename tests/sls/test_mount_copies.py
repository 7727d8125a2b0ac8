"""Where mounts are in a namespace, by steps from its root; hidden ones have steps of their own."""

from sls.mount_copies import steps_of
from sls.proc import parse_mountinfo

TEXT = rb"""27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
24 27 0:6 / /dev rw,nosuid master:7 - devtmpfs devtmpfs rw
25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw,size=4k
30 25 0:27 /a\040b /dev/shm ro,nodev unbindable - tmpfs with\040blank rw
31 30 0:28 / /dev/shm/x\134y rw - tmpfs tmpfs rw
"""


def test_steps_lead_through_mounts_on_the_same_place() -> None:
    steps = steps_of(parse_mountinfo(TEXT))
    assert steps == {
        27: (),
        24: (b"dev",),
        25: (b"dev", b"shm"),
        30: (b"dev", b"shm", b""),
        31: (b"dev", b"shm", b"", b"x\\y"),
    }


def test_fields_of_mountinfo() -> None:
    root, dev, _, shown, _ = parse_mountinfo(TEXT)
    assert (root.shared, root.master, dev.shared, dev.master) == (1, 0, 0, 7)
    assert shown.is_unbindable and shown.options == {b"ro", b"nodev"}
    assert (shown.root, shown.source) == (b"/a b", b"with blank")
