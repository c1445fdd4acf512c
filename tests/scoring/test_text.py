"""What one answer is worth, by its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.prompts.builtin import REFUSAL
from roundhouse.scoring.text import exact_match, f1, is_json, is_refusal, rouge_l


def test_case_punctuation_articles_and_spaces_make_no_difference() -> None:
    assert exact_match(" The  lighthouse, of Varo!", ["lighthouse of varo"]) == 1.0
    assert exact_match("lighthouse", ["lighthouse of varo"]) == 0.0


def test_the_best_of_several_right_answers_counts() -> None:
    assert f1("Ines Calder", ["nobody", "Ines Calder built it"]) == pytest.approx(2 / 3)
    assert rouge_l("a b c d", ["b x d", "z"]) == pytest.approx(2 * 2 / (3 + 3))  # the article is dropped
    assert f1("", ["x"]) == rouge_l("", ["x"]) == 0.0


@given(st.text(max_size=60), st.lists(st.text(max_size=60), min_size=1, max_size=3))
def test_measures_are_between_0_and_1_and_an_answer_that_is_right_has_1(text: str, answers: list[str]) -> None:
    for measure in (exact_match, f1, rouge_l):
        assert 0 <= measure(text, answers) <= 1
        assert measure(text, [*answers, text]) == 1


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", '```json\n{"a": 1}\n```', ' \n{"a": null}\n', "```\n[]\n```"])
def test_json_alone_or_in_one_fence_is_json(text: str) -> None:
    assert is_json(text)


@pytest.mark.parametrize(
    "text",
    ["", "3", "null", '"text"', 'Sure: {"a": 1}', '{"a": 1} I hope this helps', "{'a': 1}", "[NaN]", "[" * 100_000],
)
def test_a_number_a_sentence_or_what_a_parser_chokes_on_is_no_json(text: str) -> None:
    assert not is_json(text)


@pytest.mark.parametrize(
    "text",
    [
        REFUSAL,
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I cannot assist with that request.",
        "As an AI language model, I cannot provide medical advice.",
        "Unfortunately, I am unable to answer this from the context.",
        "The context does not mention the price.",
        '"I do not have enough context to say."',
    ],
)
def test_a_model_that_says_no_refuses(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text", ["", "The port is 785.", "I cannot recommend it enough.", "He said: I am sorry, I can't come.", "Sorrel."]
)
def test_an_answer_that_only_contains_such_words_is_none(text: str) -> None:
    assert not is_refusal(text)


@given(st.text(max_size=5_000))
def test_any_text_is_looked_at_without_fail(text: str) -> None:
    assert is_refusal(text) in (True, False)
    assert is_json(text) in (True, False)
