"""A long document is cut to the window by whole paragraphs, the relevant ones kept, in their own order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.prompts.fit import fit, rank, split


async def _words(text: str) -> int:
    return len(text.split())


async def test_what_fits_is_left_as_it_is() -> None:
    text = "one\n\n\ntwo "
    assert (await fit(text, "q", 2, _words)).text == text


async def test_paragraphs_close_to_the_question_are_kept_in_the_documents_order() -> None:
    parts = [f"filler number {n}" for n in range(50)]
    parts[10] = "the bridge opened"
    parts[40] = "the lighthouse of Varo"
    fitted = await fit("\n\n".join(parts), "When did the bridge near the lighthouse open?", 7, _words)
    assert fitted.text == "the bridge opened\n\nthe lighthouse of Varo"
    assert (fitted.kept, fitted.total, fitted.cut) == (2, 50, True)


async def test_a_paragraph_that_is_too_long_itself_is_parted_at_its_sentences() -> None:
    text = "Nothing here. " * 300 + "The port is 80. " + "Nothing here. " * 300
    fitted = await fit(text, "Which port?", 5, _words)
    assert fitted.text == "The port is 80."


async def test_nothing_fits() -> None:
    assert (await fit("a b c d", "q", 2, _words)).kept == 0


async def test_counting_is_asked_for_a_few_times_only() -> None:
    asked = 0

    async def count(text: str) -> int:
        nonlocal asked
        asked += 1
        return len(text.split())

    await fit("\n\n".join(f"word{n}" for n in range(5000)), "word17", 100, count)
    assert asked <= 14


def test_rare_words_of_the_question_weigh_more_than_common_ones() -> None:
    parts = ["the the the house", "the keel", "the dog"]
    assert rank(parts, "the keel of the ship")[0] == 1


@given(st.lists(st.text(alphabet="ab .\n", max_size=30), max_size=8), st.integers(1, 20))
async def test_whatever_is_kept_stays_within_the_budget(parts: list[str], budget: int) -> None:
    text = "\n\n".join(parts)
    fitted = await fit(text, "a b", budget, _words)
    assert len(fitted.text.split()) <= budget


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_no_paragraphs(text: str) -> None:
    assert split(text) == []
