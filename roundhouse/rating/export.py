"""Ratings for other programs: every judgement as a row, or pairs of a preferred and a rejected answer for DPO.

The pairs are those that TRL's `DPOTrainer` takes (its documentation, "Dataset formats and types", preference with an
explicit prompt): `prompt`, `chosen`, `rejected` as conversations, or as plain texts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from roundhouse.rating.answers import Question
from roundhouse.rating.store import Store

__all__ = ["Form", "rows"]


class Form(StrEnum):
    JUDGEMENTS = "judgements"
    DPO = "dpo"
    DPO_TEXT = "dpo-text"


def rows(store: Store, form: Form) -> Iterator[dict[str, Any]]:
    """For DPO one row for each comparison that more raters decide for one answer than for the other."""
    if form is Form.JUDGEMENTS:
        yield from _judgements(store)
    else:
        yield from _pairs(store, plain=form is Form.DPO_TEXT)


def _judgements(store: Store) -> Iterator[dict[str, Any]]:
    questions = store.questions()
    for one in store.judgements():
        compared = one.comparison
        question, answers = questions[compared.question], store.answers(compared.question)
        yield {
            "id": question.id,
            "messages": _conversation(question),
            "variants": [compared.first, compared.second],
            "answers": [answers[compared.first], answers[compared.second]],
            "outcome": "skip" if one.outcome is None else one.outcome.value,
            "preferred": {1.0: compared.first, 0.0: compared.second}.get(one.outcome.points if one.outcome else 0.5),
            "left": one.left,
            "rater": one.rater,
            "note": one.note,
            "seconds": round(one.seconds, 1),
            "at": datetime.fromtimestamp(one.at, UTC).isoformat(timespec="seconds"),
        }


def _pairs(store: Store, *, plain: bool) -> Iterator[dict[str, Any]]:
    questions = store.questions()
    balance: dict[Any, float] = defaultdict(float)
    for one in store.judgements():
        if one.outcome is not None:
            balance[one.comparison] += one.outcome.points - 0.5
    for comparison, points in balance.items():
        if not points:
            continue
        answers = store.answers(comparison.question)
        chosen, rejected = answers[comparison.first], answers[comparison.second]
        if points < 0:
            chosen, rejected = rejected, chosen
        question = questions[comparison.question]
        if plain:
            yield {"prompt": _text(question), "chosen": chosen, "rejected": rejected}
        else:
            yield {"prompt": _conversation(question), "chosen": _answer(chosen), "rejected": _answer(rejected)}


def _conversation(question: Question) -> list[dict[str, str]]:
    """The context stands before the last turn."""
    *earlier, (role, last) = question.messages
    text = f"{question.context}\n\n{last}" if question.context else last
    return [{"role": one, "content": said} for one, said in (*earlier, (role, text))]


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _text(question: Question) -> str:
    return "\n\n".join(turn["content"] for turn in _conversation(question))
