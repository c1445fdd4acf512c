"""The little world: seeded, its splits apart, its answers in the context or refused."""

from random import Random

import pytest

from training.data import REFUSAL, QuestionKind, Shape, make_group
from training.heldout import rows
from training.names import Split, person, place, split_of, word
from training.prompts import TAIL, rag_query


def test_the_same_seed_tells_the_same_story() -> None:
    first, second = (make_group(Random(5), "train", Shape()) for _ in range(2))
    assert first == second
    assert make_group(Random(6), "train", Shape()) != first


@pytest.mark.parametrize("split", ["train", "validation", "heldout"])
def test_every_name_belongs_to_its_split(split: Split) -> None:
    rng = Random(1)
    for _ in range(200):
        names = [*person(rng, split).split(), word(rng, split), place(rng, split)]
        assert {split_of(name) for name in names} == {split}


def test_an_answer_is_a_sentence_of_the_context_word_for_word_or_the_refusal() -> None:
    rng = Random(2)
    for _ in range(300):
        group = make_group(rng, "train", Shape())
        for case in group.cases:
            if case.kind == "answerable":
                assert case.answer in group.context
            else:
                assert case.answer == REFUSAL


def test_an_absent_thing_is_in_no_sentence_and_an_absent_facts_thing_is() -> None:
    rng = Random(3)
    kinds: tuple[QuestionKind, ...] = ("entity_absent", "fact_absent")
    for _ in range(200):
        group = make_group(rng, "train", Shape(2, 4), kinds)
        absent, untold = group.cases
        assert (absent.sentence_index, untold.sentence_index) == (-1, -1)
        assert any(name in group.context for name in untold.question.rstrip("?").split() if name[0].isupper())


def test_a_context_about_one_town_names_it_again_and_again() -> None:
    rng = Random(4)
    groups = [make_group(rng, "train", Shape(5, 5, town=1.0)) for _ in range(50)]
    most_named = [
        max(group.context.count(word) for word in group.context.split() if word[0].isupper()) for group in groups
    ]
    assert sum(most_named) / len(most_named) > 3


def test_the_held_out_questions_are_those_that_ship(heldout: list[dict[str, object]]) -> None:
    assert rows() == heldout


def test_the_held_out_set_is_as_large_and_as_mixed_as_it_should_be(heldout: list[dict[str, object]]) -> None:
    kinds = [row["kind"] for row in heldout]
    assert len(heldout) >= 400
    assert min(kinds.count(kind) for kind in ("answerable", "entity_absent", "fact_absent", "off_topic")) >= 40
    assert {row["sentences"] for row in heldout} == {1, 2, 3, 4}
    assert len({row["id"] for row in heldout}) == len(heldout)


def test_the_trained_prompt_is_the_built_in_one() -> None:
    from tests.conftest import rag_query as built_in

    assert rag_query("C", "Q") == built_in("C", "Q")
    assert TAIL in built_in("C", "Q")
