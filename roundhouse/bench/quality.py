"""How good the very answers are that were timed, by the measures of `roundhouse.scoring`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from roundhouse.bench.dataset import Question
from roundhouse.bench.records import Record
from roundhouse.core.errors import MissingExtra
from roundhouse.scoring.corpus import corpus_scores
from roundhouse.scoring.text import exact_match, f1, rouge_l

__all__ = ["Quality", "judge", "scores"]


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over `n` answers, 0 to 1; BLEU and chrF 0 to 100, None without sacrebleu. An unanswered question is none.

    `by_kind`: the share of exact matches by the rows' kind. `signatures` make BLEU and chrF reproducible.
    """

    n: int
    exact_match: float
    f1: float
    rouge_l: float
    bleu: float | None = None
    chrf: float | None = None
    signatures: Mapping[str, str] = field(default_factory=dict)
    by_kind: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def scores(text: str, answers: Sequence[str]) -> dict[str, float]:
    """Of one answer."""
    return {"exact_match": exact_match(text, answers), "f1": f1(text, answers), "rouge_l": rouge_l(text, answers)}


def judge(records: Sequence[Record], questions: Sequence[Question]) -> Quality | None:
    """The quality of the answered records whose question has a right answer; None if there is none.

    Each of them is told whether it was right.
    """
    pairs = [(record, questions[record.item]) for record in records if record.answered]
    pairs = [(record, question) for record, question in pairs if question.answers]
    if not pairs:
        return None
    rows = [scores(record.text, question.answers) for record, question in pairs]
    for (record, _), row in zip(pairs, rows, strict=True):
        record.right = row["exact_match"]
    kinds: dict[str, list[float]] = {}
    for (_, question), row in zip(pairs, rows, strict=True):
        if question.kind:
            kinds.setdefault(question.kind, []).append(row["exact_match"])
    corpus, note = _of_corpus([record.text for record, _ in pairs], [question.answers for _, question in pairs])
    return Quality(
        n=len(rows),
        exact_match=_mean([row["exact_match"] for row in rows]),
        f1=_mean([row["f1"] for row in rows]),
        rouge_l=_mean([row["rouge_l"] for row in rows]),
        bleu=corpus["bleu"][0] if corpus else None,
        chrf=corpus["chrf"][0] if corpus else None,
        signatures={name: signature for name, (_, signature) in corpus.items()},
        by_kind={kind: _mean(values) for kind, values in sorted(kinds.items())},
        note=note,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _of_corpus(texts: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[Mapping[str, tuple[float, str]], str]:
    """Without sacrebleu a note says so."""
    try:
        return corpus_scores(texts, answers), ""
    except MissingExtra as error:
        return {}, str(error)
