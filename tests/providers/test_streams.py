"""Decoders give the same records however the bytes are cut, and end in a typed error, never in memory."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.errors import BadResponse
from roundhouse.providers.streams import LineDecoder, SSEDecoder

SSE = (
    "\ufeffdata: one\n\n"
    ": ping\n\n"
    "event: x\r\ndata: two\r\ndata:  three\r\n\r\n"
    "data:four\r\rid: 7\n\n"
    'data: {"text": "h\u00e9llo \U0001f600"}\n\n'
    '{"error": "raw"}\n'
    "data: never ended"
).encode()
EVENTS = [b"one", b"two\n three", b"four", '{"text": "h\u00e9llo \U0001f600"}'.encode(), b'{"error": "raw"}']


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def _events(pieces: list[bytes]) -> list[bytes]:
    decoder = SSEDecoder()
    return [*(event for piece in pieces for event in decoder.feed(piece)), *decoder.end()]


def test_events_of_a_stream_in_one_piece() -> None:
    assert _events([SSE]) == EVENTS


@pytest.mark.parametrize("place", range(len(SSE) + 1))
def test_one_cut_at_every_byte_changes_nothing(place: int) -> None:
    assert _events(_cut(SSE, [place])) == EVENTS


@given(st.lists(st.integers(0, len(SSE)), max_size=30))
def test_any_cuts_change_nothing(places: list[int]) -> None:
    assert _events(_cut(SSE, places)) == EVENTS


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_any_bytes_decode_alike_whole_and_in_pieces(data: bytes, places: list[int]) -> None:
    places = [min(place, len(data)) for place in places]
    assert _events(_cut(data, places)) == _events([data])


@given(
    st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n")), max_size=6),
    st.lists(st.integers(0, 99), max_size=9),
)
def test_lines_are_the_same_however_they_are_cut(lines: list[str], places: list[int]) -> None:
    data = "".join(f"{line}\r\n" for line in lines).encode()
    decoder = LineDecoder()
    pieces = _cut(data, [min(place, len(data)) for place in places])
    assert [line for piece in pieces for line in decoder.feed(piece)] == [line.encode() for line in lines]
    assert decoder.end() == b""


def test_the_last_line_needs_no_end() -> None:
    decoder = LineDecoder()
    assert decoder.feed(b"a\nb") == [b"a"]
    assert decoder.end() == b"b"


def test_an_error_without_a_line_end_is_seen_at_the_end() -> None:
    assert _events([b'data: a\n\n{"error": 1}']) == [b"a", b'{"error": 1}']


@pytest.mark.parametrize("decoder", [LineDecoder(1000), SSEDecoder(1000)])
def test_a_line_that_never_ends_is_refused_at_the_limit(decoder: LineDecoder | SSEDecoder) -> None:
    with pytest.raises(BadResponse, match="longer than"):
        for _ in range(100):
            list(decoder.feed(b"data: " + b"x" * 100))


def test_an_event_of_endless_lines_is_refused_at_the_limit() -> None:
    decoder = SSEDecoder(1000)
    with pytest.raises(BadResponse, match="event"):
        for _ in range(100):
            list(decoder.feed(b"data: " + b"x" * 50 + b"\n"))


def test_a_line_of_a_megabyte_within_the_limit_passes() -> None:
    data = b"x" * ((1 << 20) - 20)
    assert _events([b"data: " + data + b"\n\n"]) == [data]
