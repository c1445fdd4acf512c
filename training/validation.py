"""Fixed questions over names of a split: for watching training (`validation`) and for the final score (`heldout`)."""

from __future__ import annotations

from random import Random

from transformers import PreTrainedTokenizerBase

from training.data import Case, Group, QuestionKind, Shape, make_group
from training.names import Split
from training.prompts import rag_query

__all__ = ["questions", "validation_set"]

# Name -> (kind of question, sentences of the context, share of contexts about one town); 0 sentences = 1 to 4.
_SETS: dict[str, tuple[QuestionKind, int, float]] = {
    "answerable_1": ("answerable", 1, 0.0),
    "answerable_2": ("answerable", 2, 0.0),
    "answerable_3": ("answerable", 3, 0.0),
    "answerable_4": ("answerable", 4, 0.0),
    "answerable_6": ("answerable", 6, 0.0),
    "entity_absent": ("entity_absent", 0, 0.0),
    "fact_absent": ("fact_absent", 0, 0.0),
    "off_topic": ("off_topic", 0, 0.0),
    "answerable_4_town": ("answerable", 4, 1.0),
    "entity_absent_town": ("entity_absent", 0, 1.0),
    "fact_absent_town": ("fact_absent", 0, 1.0),
}


def questions(
    split: Split, seed: int, kind: QuestionKind, sentences: int, number: int, town: float = 0.0
) -> list[tuple[Group, Case]]:
    """`number` single questions of one kind, each with a context of its own; 0 sentences = 1 to 4, evenly."""
    rng = Random(seed)
    found = []
    for place in range(number):
        length = sentences or 1 + place % 4
        group = make_group(rng, split, Shape(length, length, 1, town=town), (kind,))
        while group.sentences != length:  # a filler sentence counts too
            group = make_group(rng, split, Shape(length, length, 1, town=town), (kind,))
        found.append((group, group.cases[0]))
    return found


def validation_set(tokenizer: PreTrainedTokenizerBase, per_kind: int) -> dict[str, list[tuple[list[int], list[int]]]]:
    """Token ids of prompt and answer by set, over names that neither training nor the held-out set has."""
    sets = {}
    for name, (kind, sentences, town) in _SETS.items():
        rows = []
        for group, case in questions("validation", 999, kind, sentences, per_kind, town):
            prompt = f"<s>[INST] {rag_query(group.context, case.question)}[/INST]"
            asked, told = (
                tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, f" {case.answer}</s>")
            )
            rows.append((asked, told))
        sets[name] = rows
    return sets
