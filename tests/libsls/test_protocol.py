"""Commands: what is parsed is what was formatted; everything else is refused in words."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libsls import protocol
from libsls.protocol import Backend, Checkpoint, Mode, ProtocolError, Restore, Restored

printable = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=60
)
names = st.just("") | printable.filter(lambda text: text not in (".", ".."))
epochs = st.integers(1, protocol.EPOCH_MAX)


@given(st.builds(Checkpoint, recursive=st.booleans(), full=st.booleans(), name=names))
def test_a_checkpoint_survives_the_wire(command: Checkpoint) -> None:
    assert protocol.parse_checkpoint(protocol.format_checkpoint(command)) == command


@given(
    st.builds(
        Restore,
        generation=st.none() | epochs,
        stopped=st.booleans(),
        kill=st.booleans(),
        terminal=st.integers(0, protocol.PID_MAX),
    )
)
def test_a_restore_survives_the_wire(command: Restore) -> None:
    assert protocol.parse_restore(protocol.format_restore(command)) == command


@given(st.lists(st.integers(1, protocol.PID_MAX), min_size=1, max_size=50, unique=True))
def test_pids_survive_the_wire(pids: list[int]) -> None:
    assert protocol.parse_pids(protocol.format_pids(pids)) == tuple(pids)


@given(st.builds(Restored, epochs, st.lists(st.integers(1, 10**6)).map(tuple)))
def test_a_restore_outcome_survives_the_wire(restored: Restored) -> None:
    assert protocol.parse_restored(protocol.format_restored(restored)) == restored


PARSERS = (
    protocol.parse_pids,
    protocol.parse_checkpoint,
    protocol.parse_restore,
    protocol.parse_period,
    protocol.parse_retain,
    protocol.parse_mode,
    protocol.parse_backend,
)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_garbage_is_parsed_or_refused(parse: object, data: bytes) -> None:
    assert callable(parse)
    refusal = None
    try:
        parse(data)
    except ProtocolError as error:
        refusal = error
    if refusal is not None:
        assert refusal.errno in (errno.EINVAL, errno.ERANGE, errno.ENAMETOOLONG)
        assert str(refusal)


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("0", errno.ERANGE),
        ("65537", errno.ERANGE),
        ("-1", errno.ERANGE),
        ("-", errno.EINVAL),
        ("", errno.EINVAL),
        ("1.5", errno.EINVAL),
        ("0x10", errno.EINVAL),
        ("+1", errno.EINVAL),
        ("007", errno.EINVAL),
        ("²", errno.EINVAL),
    ],
    ids=repr,
)
def test_an_oid_has_one_spelling(word: str, code: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.parse_oid(word)
    assert caught.value.errno == code


def test_bounds_are_taken() -> None:
    assert protocol.parse_oid("1") == 1
    assert protocol.parse_oid("65536") == 65536
    assert protocol.parse_pids(b"1 4194304\n1") == (1, 4194304)
    assert protocol.parse_period(b" 0 \n") == 0
    assert protocol.parse_mode(b"full") is Mode.FULL
    assert protocol.parse_backend(b"memory\n") is Backend.MEMORY
    assert protocol.parse_checkpoint(b"1\n") == Checkpoint()
    assert protocol.parse_restore(b"latest kill\n") == Restore(kill=True)


@pytest.mark.parametrize(
    "words",
    ["name=a/b", "name=", "name=..", "name=a\x07", "'open", "recursive please"],
    ids=repr,
)
def test_a_wrong_word_refuses_the_whole(words: str) -> None:
    with pytest.raises(ProtocolError):
        protocol.parse_checkpoint(f"full {words}".encode())


def test_the_mount_table_is_read_with_its_escapes() -> None:
    table = (
        "proc /proc proc rw 0 0\n"
        "/a\\040b.slos /mnt/with\\040blank fuse.slfs rw,nosuid 0 0\n"
        "x /y fuse.sshfs rw 0 0\n"
    )
    assert protocol.parse_mounts(table) == [protocol.Mount("/a b.slos", "/mnt/with blank")]
