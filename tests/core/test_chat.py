import pytest

from roundhouse.core.chat import Chunk, Sampling, Timings, ToolCall, Usage, collect
from roundhouse.core.errors import StreamBroken


def test_a_whole_answer_is_the_sum_of_its_pieces() -> None:
    answer = collect(
        [
            Chunk(text="Ines ", warnings=("a",)),
            Chunk(text="Calder", reasoning="hm"),
            Chunk(finish_reason="stop", usage=Usage(3, 2, 1), timings=Timings(total_s=1.0), warnings=("a", "b")),
        ]
    )
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("Ines Calder", "hm", "stop")
    assert answer.usage.total_tokens == 5
    assert answer.timings.total_s == 1.0
    assert answer.warnings == ("a", "b")


def test_an_answer_without_a_finish_reason_is_no_answer() -> None:
    with pytest.raises(StreamBroken):
        collect([Chunk(text="half")])


def test_pieces_of_tool_calls_join_by_index() -> None:
    answer = collect(
        [
            Chunk(tool_calls=(ToolCall(1, "b", "g", "{}"), ToolCall(0, "a", "f", '{"x"'))),
            Chunk(tool_calls=(ToolCall(0, arguments=": 1}"),)),
            Chunk(finish_reason="tool_calls"),
        ]
    )
    assert answer.tool_calls == (ToolCall(0, "a", "f", '{"x": 1}'), ToolCall(1, "b", "g", "{}"))


def test_sampling_keeps_what_is_set_and_takes_the_rest_from_the_defaults() -> None:
    mine = Sampling(temperature=0.0, stop=("x",))
    merged = mine.over(Sampling(temperature=0.9, max_tokens=5, stop=("y",)))
    assert merged == Sampling(temperature=0.0, max_tokens=5, stop=("x",))


def test_only_content_counts_as_a_first_token() -> None:
    assert Chunk(reasoning="x").has_content
    assert not Chunk(finish_reason="stop", warnings=("w",)).has_content
