"""The image's stored form: whatever the records are, it comes back equal; whatever else is there is refused."""

import struct
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sls import image
from sls.errors import ImageError
from sls.image import Image, ProcessImage, ThreadImage
from sls.resources import AnyFileRecord, AnyProcessRecord, AnyThreadRecord

_SOME = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
_INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1)  # what msgpack holds
_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


def records(union: object) -> st.SearchStrategy[object]:
    st.register_type_strategy(int, _INTEGERS)
    st.register_type_strategy(str, _WORDS)
    return st.from_type(union)  # type: ignore[arg-type]


def an_image(processes: tuple[ProcessImage, ...] = (), files: tuple[object, ...] = ()) -> Image:
    return Image(time_ns=1, boot_id="b", kernel="k", processes=processes, files=files)  # type: ignore[arg-type]


def check_round_trip(kept: Image) -> None:
    data = image.encode(kept)
    assert image.decode(data) == kept
    assert image.encode(image.decode(data)) == data


@pytest.mark.parametrize("kind", AnyFileRecord.__args__, ids=lambda kind: kind.__name__)
@_SOME
@given(data=st.data())
def test_files_come_back_equal(kind: type, data: st.DataObject) -> None:
    check_round_trip(an_image(files=(data.draw(records(kind)),)))


@pytest.mark.parametrize("kind", AnyProcessRecord.__args__, ids=lambda kind: kind.__name__)
@_SOME
@given(data=st.data())
def test_process_states_come_back_equal(kind: type, data: st.DataObject) -> None:
    state = data.draw(records(kind))
    process = ProcessImage(pid=5, ppid=1, pgid=5, sid=5, comm=b"a", states=(state,))  # type: ignore[arg-type]
    check_round_trip(an_image(processes=(process,)))


@pytest.mark.parametrize("kind", AnyThreadRecord.__args__, ids=lambda kind: kind.__name__)
@_SOME
@given(data=st.data())
def test_thread_states_come_back_equal(kind: type, data: st.DataObject) -> None:
    thread = ThreadImage(tid=6, states=(data.draw(records(kind)),))  # type: ignore[arg-type]
    process = ProcessImage(pid=5, ppid=1, pgid=5, sid=5, comm=b"a", threads=(thread,))
    check_round_trip(an_image(processes=(process,)))


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        image.decode(data)


@given(st.binary(max_size=200))
def test_garbage_behind_a_right_head_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        image.decode(image.encode(an_image())[:6] + data)


@given(st.integers(0, 1 << 16), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_seen(position: int, value: int) -> None:
    kept = an_image((ProcessImage(pid=5, ppid=1, pgid=5, sid=5, comm=b"name", exit_status=9),))
    data = bytearray(image.encode(kept))
    position %= len(data)
    same = data[position] == value
    data[position] = value
    try:
        found = image.decode(bytes(data))
    except ImageError:
        return
    assert same == (found == kept)


def test_another_version_is_refused_and_named() -> None:
    data = bytearray(image.encode(an_image()))
    struct.pack_into("=H", data, 4, image.VERSION + 1)
    with pytest.raises(ImageError, match=f"{image.VERSION + 1}.*{image.VERSION}"):
        image.decode(bytes(data))


def test_a_field_that_is_not_known_is_refused() -> None:
    plain = msgspec.msgpack.decode(image.encode(an_image())[6:])
    data = image.encode(an_image())[:6] + msgspec.msgpack.encode(plain | {"more": 1})
    with pytest.raises(ImageError, match="more"):
        image.decode(data)


GOLDEN = sorted((Path(__file__).parent.parent / "data" / "images").glob("*/*.image"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden_images_stay_readable(path: Path) -> None:
    """Written by an earlier commit; `python -m tests.sls.golden` writes those of new kinds of records."""
    found = image.decode(zlib.decompress(path.read_bytes()))
    assert found.processes
    assert found.processes[0].threads[0].state.registers
    check_round_trip(found)


def test_golden_images_hold_every_kind_of_record() -> None:
    held: set[type] = set()
    for path in GOLDEN:
        found = image.decode(zlib.decompress(path.read_bytes()))
        held |= {type(one) for one in found.files}
        for process in found.processes:
            held |= {type(one) for one in process.states}
            held |= {type(one) for thread in process.threads for one in thread.states}
    unions = (AnyFileRecord, AnyProcessRecord, AnyThreadRecord)
    kinds = {kind for union in unions for kind in union.__args__}
    never = {"OtherSocketRecord"}  # what is refused has no image
    assert {kind.__name__ for kind in kinds - held} <= never, "run python -m tests.sls.golden"
