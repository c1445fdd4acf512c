"""What goes on from a cut answer: whatever is cut wherever, the client's text and the rest make the whole."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.chat import ChatRequest, Chunk, Message, Sampling, Tool, Usage
from roundhouse.core.errors import ContextTooLong, InvalidRequest, Overloaded, StreamBroken, TimedOut
from roundhouse.routing.failover import Sent, may_ask_again, may_go_on
from roundhouse.routing.resume import Differs, Strip, joined_usage, resumes

TEXT = st.text("ab c\n\t東", min_size=1, max_size=60)


@given(TEXT)
def test_what_is_kept_and_what_is_written_again_are_the_text(sent: str) -> None:
    ways = resumes(sent)
    assert [way.kept + way.again for way in ways] == [sent] * len(ways)
    assert ways[-1].again == ""


@pytest.mark.parametrize(
    ("sent", "kept", "again"),
    [
        ("The light", "The", " light"),
        ("Gl", "", "Gl"),
        ("The light ", "The", " light "),
        ("one\n\ntwo", "one", "\n\ntwo"),
        ("東" * 50, "東" * 50, ""),
    ],
)
def test_the_last_word_is_written_again_unless_it_is_endless(sent: str, kept: str, again: str) -> None:
    assert (resumes(sent)[0].kept, resumes(sent)[0].again) == (kept, again)


@given(TEXT, TEXT, st.lists(st.integers(0, 120)))
def test_what_was_written_again_is_taken_off_in_whatever_pieces_it_comes(
    again: str, rest: str, places: list[int]
) -> None:
    whole, strip = again + rest, Strip(again)
    cuts = [0, *sorted(place for place in places if place < len(whole)), len(whole)]
    pieces = [whole[start:end] for start, end in itertools.pairwise(cuts)]
    assert "".join(map(strip.feed, pieces)) == rest
    assert strip.done


def test_another_word_is_noticed_at_its_first_letter() -> None:
    strip = Strip(" light")
    assert strip.feed(" li") == ""
    with pytest.raises(Differs):
        strip.feed("me")


def test_a_request_goes_on_after_its_own_beginning_with_what_is_left_of_its_tokens() -> None:
    asked = ChatRequest(
        (Message("user", "q"), Message("assistant", "It is")), continue_last=True, sampling=Sampling(max_tokens=9)
    )
    going_on = resumes(" the light")[0].request(asked, 4)
    assert going_on.messages[-1] == Message("assistant", "It is the")
    assert (going_on.continue_last, going_on.sampling.max_tokens) == (True, 5)
    fresh = resumes("Gl")[0].request(ChatRequest.of("q"), 0)
    assert (fresh.messages, fresh.continue_last) == ((Message("user", "q"),), False)


def test_usage_counts_each_token_once() -> None:
    assert joined_usage(Usage(14, 6, 12), 10, 4) == Usage(10, 10, 10)
    assert joined_usage(None, 10, 4) is None


def _sent(*chunks: Chunk) -> Sent:
    sent = Sent()
    for chunk in chunks:
        sent.add(chunk)
    return sent


@pytest.mark.parametrize(
    ("request_", "sent", "goes_on"),
    [
        (ChatRequest.of("q"), _sent(), True),
        (ChatRequest.of("q"), _sent(Chunk(text="a")), True),
        (ChatRequest.of("q"), _sent(Chunk(reasoning="hm")), False),
        (ChatRequest.of("q", tools=(Tool("f"),)), _sent(), True),
        (ChatRequest.of("q", tools=(Tool("f"),)), _sent(Chunk(text="a")), False),
        (ChatRequest.of("q", json_schema={}), _sent(Chunk(text="{")), False),
        (ChatRequest.of("q", logprobs=0), _sent(Chunk(text="a")), False),
        (ChatRequest.of("q", extra={"n": 2}), _sent(Chunk(text="a")), False),
        (ChatRequest.of("q", fallback=False), _sent(), False),
    ],
)
def test_what_may_be_joined(request_: ChatRequest, sent: Sent, goes_on: bool) -> None:
    assert may_go_on(StreamBroken("cut"), request_, sent) == goes_on
    assert not may_go_on(InvalidRequest("no"), request_, sent)


def test_a_silent_backend_is_never_asked_twice() -> None:
    assert not may_ask_again(TimedOut("silent", phase="first_token"))
    assert may_ask_again(Overloaded("busy"))
    assert not may_ask_again(ContextTooLong("long"))


def test_pieces_of_a_beginning_are_counted() -> None:
    sent = _sent(Chunk(text="The"), Chunk(text=" lig"), Chunk(text="ht"))
    assert [sent.pieces_of(count) for count in (0, 1, 3, 4, 7, 9)] == [0, 1, 1, 2, 2, 3]
