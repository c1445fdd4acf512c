"""A stop sequence ends a text before itself, wherever the pieces are cut, and nothing of it is shown too early."""

from hypothesis import given
from hypothesis import strategies as st

from roundhouse.engines.huggingface.text import StopFinder

SHORT = st.text("ab ", max_size=12)


def _shown(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    finder = StopFinder(stops)
    return [*(finder.feed(piece) for piece in pieces), finder.end()], finder.stopped


@given(st.lists(SHORT), st.lists(st.text("ab ", max_size=4), max_size=3))
def test_what_is_shown_is_the_text_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    shown, stopped = _shown(stops, pieces)
    text = "".join(pieces)
    places = [text.find(stop) for stop in stops if stop and stop in text]
    assert stopped == bool(places)
    assert "".join(shown) == (_until_stop(pieces, stops) if places else text)


def _until_stop(pieces: list[str], stops: list[str]) -> str:
    """By trying every length of the text in turn: the first piece with which a stop is whole decides."""
    text = ""
    for piece in pieces:
        text += piece
        found = [text.find(stop) for stop in stops if stop and stop in text]
        if found:
            return text[: min(found)]
    return text


def test_no_part_of_a_stop_sequence_is_shown_early() -> None:
    finder = StopFinder(["</end>"])
    assert [finder.feed(piece) for piece in ("a<", "/e", "nd", ">b")] == ["a", "", "", ""]
    assert finder.stopped
    assert finder.feed("more") == finder.end() == ""


def test_what_only_began_like_a_stop_is_shown_in_the_end() -> None:
    finder = StopFinder(["stop"])
    assert (finder.feed("it sto"), finder.end()) == ("it ", "sto")
