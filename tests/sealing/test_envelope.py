"""The envelope: a record in, the same record out; never more work than it says, never a record lost in it."""

import tracemalloc
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starsessions.core.record import LAST_INSTANT, Record
from starsessions.sealing.envelope import MAX_UNPACKED, pack, packer, unpack
from tests.rows import rows

REFUSALS = (ValueError, msgspec.DecodeError, zlib.error)
COMPRESSED = 1

small = st.integers(0, LAST_INSTANT)
records = st.builds(
    Record,
    st.binary(max_size=300) | st.binary(max_size=20).map(lambda part: part * 50) | st.integers(0, 20).map(bytes),
    small,
    small,
    st.none() | small,
    st.none() | small,
    st.booleans(),
)


@given(records, st.booleans())
def test_a_record_is_unpacked_as_it_was_packed(record: Record, compress: bool) -> None:
    assert unpack(packer(compress)(record)) == record


def test_a_record_is_compressed_if_that_is_shorter() -> None:
    repetitive = Record(b"again and " * 100, 1, 1)

    assert len(pack(repetitive)) < 100
    assert pack(repetitive)[0] == COMPRESSED


def test_a_record_that_compression_makes_longer_is_left_as_it_is() -> None:
    record = Record(bytes(range(256)), 1, 1)

    assert pack(record) == msgspec.msgpack.encode(record)


def test_the_flag_cannot_be_taken_for_the_beginning_of_a_record() -> None:
    """A record that is not compressed has no flag: it is a MessagePack array of some length."""
    for fields in (range(6), range(20), range(70_000)):
        assert msgspec.msgpack.encode(list(fields))[0] > COMPRESSED


# The writer may be an older release, or an attacker who has guessed a key: a bomb must not take the memory.


@rows("size", [MAX_UNPACKED + 1, MAX_UNPACKED + 200, MAX_UNPACKED + 10_000, 50 * MAX_UNPACKED])
def test_a_decompression_bomb_is_rejected(size: int) -> None:
    bomb = bytes((COMPRESSED,)) + zlib.compress(msgspec.msgpack.encode(Record(bytes(size), 1, 1)), 9)

    tracemalloc.start()
    try:
        with pytest.raises(REFUSALS):
            unpack(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * MAX_UNPACKED


def test_data_after_a_record_of_the_largest_size_is_not_cut_off() -> None:
    overhead = len(msgspec.msgpack.encode(Record(bytes(MAX_UNPACKED), 1, 1))) - MAX_UNPACKED
    body = msgspec.msgpack.encode(Record(bytes(MAX_UNPACKED - overhead), 1, 1))
    assert len(body) == MAX_UNPACKED
    assert unpack(bytes((COMPRESSED,)) + zlib.compress(body)) == msgspec.msgpack.decode(body, type=Record)

    with pytest.raises(REFUSALS):
        unpack(bytes((COMPRESSED,)) + zlib.compress(body + b"and more"))


@rows("over", [-100, -1, 0, 1, 2, 100, 200, 258, 300, 1000, MAX_UNPACKED])
def test_every_packed_record_can_be_unpacked(over: int) -> None:
    """A session over the bomb limit may compress to two kilobytes: it must not be lost in silence."""
    overhead = len(msgspec.msgpack.encode(Record(bytes(MAX_UNPACKED), 1, 1))) - MAX_UNPACKED
    record = Record(bytes(MAX_UNPACKED - overhead + over), 1, 1)

    try:
        raw = pack(record)
    except REFUSALS:
        return
    assert unpack(raw) == record


@given(st.binary(max_size=60))
def test_garbage_raises_or_is_a_record(raw: bytes) -> None:
    try:
        record = unpack(raw)
    except Exception:
        return
    assert isinstance(record, Record)


@rows(
    "content",
    [None, [], {}, [b"x"], [b"x", 1], [b"x", "1", 1], [b"x", 1, 1.5], [b"x", 1, 1, "x"], [b"x", 1, 1, None, None, 1]],
)
@rows("flags", [0, COMPRESSED])
def test_bytes_that_are_no_record_are_rejected(content: object, flags: int) -> None:
    body = msgspec.msgpack.encode(content)

    with pytest.raises(REFUSALS):
        unpack(bytes((flags,)) + zlib.compress(body) if flags else body)


def test_the_bytes_match_the_docstring() -> None:
    """They are out there, in cookies: what this test pins may be added to, and not changed."""
    record = Record(b"data", 1, 2, 3, 4, True, 5)
    body = msgspec.msgpack.encode([b"data", 1, 2, 3, 4, True, 5, None, -1, False])

    assert pack(record) == body
