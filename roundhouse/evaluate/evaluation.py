"""From the answers of several variants to what may be said of them. Pure, but for scorers of others.

Every number is over the questions that all variants have answered, so that all stand on the same ground. The first
metric decides: its p-values are corrected for the number of variants; those of all others together, for what is only
looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roundhouse.core.errors import InvalidRequest
from roundhouse.evaluate.paired import Difference, difference, holm, interval
from roundhouse.rating.answers import Rated
from roundhouse.scoring import corpus
from roundhouse.scoring.scorers import NEED_RIGHT, Scored, find, score

__all__ = ["FORMAT", "Against", "Evaluation", "Measured", "Metric", "Values", "default_metrics", "evaluate", "measured"]

FORMAT = "roundhouse.evaluation/1"
_LEAST = 2


@dataclass(frozen=True, slots=True)
class Measured:
    """The mean over questions, or a corpus score, and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Against:
    """A variant against the control: its value minus the control's. `low`, `high`: None for corpus scores.

    `p` is as tested, `corrected` after Holm; `said`: `higher` or `lower` where that is below 1 - confidence, else ``.
    `gained`, `lost`: questions on which it is higher and lower, None for corpus scores.
    """

    change: float
    low: float | None
    high: float | None
    p: float
    corrected: float
    said: str
    test: str
    gained: int | None = None
    lost: int | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """`n` questions count. `variants` by name, the control among them; `against`: all but the control."""

    name: str
    n: int
    variants: Mapping[str, Measured]
    against: Mapping[str, Against]
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`made_by` tells each variant's settings where they are known, `unanswered` how many questions it left open.

    `kinds`: means of the first metric by the rows' kind and variant. `differ`: by variant, the ids of the questions on
    which the first metric differs from the control, the widest first. `notes`: what a reader must know.
    """

    dataset: str
    questions: int
    common: int
    control: str
    confidence: float
    seed: int
    metrics: tuple[Metric, ...]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    unanswered: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    differ: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: str = FORMAT


@dataclass(frozen=True, slots=True)
class Values:
    """Of one metric: by variant, a value for each of `rows` (places in the list of questions), in the same order."""

    rows: Sequence[int]
    variants: Mapping[str, Sequence[float]]


def default_metrics(rated: Sequence[Rated]) -> list[str]:
    """What can be said of these without asking more."""
    if any(one.question.right for one in rated):
        return ["exact_match", "f1", "rouge_l", *corpus.METRICS, "refusal", "characters"]
    return ["characters", "refusal"]


def measured(name: str, rated: Sequence[Rated], variants: Sequence[str]) -> Values:
    """Values of a metric that looks at one answer at a time. Raises `InvalidRequest`."""
    scorer = find(name)
    rows = [place for place, one in enumerate(rated) if one.question.right or name not in NEED_RIGHT]
    found = {
        variant: [
            score(
                name, scorer, Scored(rated[row].answers[variant], rated[row].question.right, rated[row].question.values)
            )
            for row in rows
        ]
        for variant in variants
    }
    return Values(rows, found)


def evaluate(
    rated: Sequence[Rated],
    variants: Sequence[str],
    metrics: Sequence[str],
    *,
    dataset: str,
    confidence: float = 0.95,
    seed: int = 0,
    made_by: Mapping[str, Any] | None = None,
    judged: Mapping[str, Values] | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """`variants`: the control first. `metrics`: the one that decides first; `judged` has values of some of them by
    name, over the common questions (`common_of`).

    Raises `InvalidRequest` where nothing can be compared, `MissingExtra` without numpy or sacrebleu.
    """
    common = common_of(rated, variants)
    if len(common) < _LEAST:
        raise InvalidRequest(f"{len(common)} questions were answered by all of {', '.join(variants)}", param="answers")
    said = list(notes)
    found: list[_Found] = []
    values: dict[str, Values] = {}
    for name in metrics:
        if name in corpus.METRICS:
            found += _of_corpus(name, common, variants)
            continue
        values[name] = (judged or {}).get(name) or measured(name, common, variants)
        if len(values[name].rows) < _LEAST:
            said.append(f"{name}: {len(values[name].rows)} questions have a right answer")
            continue
        found.append(_of_answers(name, values[name], variants, confidence, seed))
    if not found:
        raise InvalidRequest(f"nothing can be measured: {'; '.join(said)}", param="metric")
    corrected = _corrected(found)
    told = tuple(
        Metric(
            one.name,
            one.n,
            one.means,
            {name: tested.said(corrected[one.name, name], 1 - confidence) for name, tested in one.tested.items()},
            one.signature,
        )
        for one in found
    )
    first = values.get(told[0].name)
    return Evaluation(
        dataset=dataset,
        questions=len(rated),
        common=len(common),
        control=variants[0],
        confidence=confidence,
        seed=seed,
        metrics=told,
        made_by=made_by or {},
        unanswered={name: sum(name not in one.answers for one in rated) for name in variants},
        kinds=_kinds(common, first) if first else {},
        differ={name: _differ(common, first, variants[0], name) for name in variants[1:]} if first else {},
        notes=tuple(said),
    )


def common_of(rated: Sequence[Rated], variants: Sequence[str]) -> list[Rated]:
    """The questions that all have answered."""
    return [one for one in rated if all(name in one.answers for name in variants)]


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    n: int
    means: Mapping[str, Measured]
    tested: Mapping[str, _Tested]
    signature: str = ""


@dataclass(frozen=True, slots=True)
class _Tested:
    change: float
    low: float | None
    high: float | None
    p: float
    test: str
    gained: int | None = None
    lost: int | None = None

    def said(self, corrected: float, alpha: float) -> Against:
        word = ("higher" if self.change > 0 else "lower") if corrected < alpha and self.change else ""
        return Against(
            self.change, self.low, self.high, self.p, corrected, word, self.test, self.gained, self.lost
        )  # fmt: skip


def _of_answers(name: str, values: Values, variants: Sequence[str], confidence: float, seed: int) -> _Found:
    means = {
        variant: Measured(sum(told) / len(told), *interval(told, confidence, seed))
        for variant, told in values.variants.items()
    }
    control = values.variants[variants[0]]
    tested = {one: _tested(difference(control, values.variants[one], confidence, seed)) for one in variants[1:]}
    return _Found(name, len(values.rows), means, tested)


def _tested(one: Difference) -> _Tested:
    return _Tested(one.mean, one.low, one.high, one.p, one.test, one.higher, one.lower)


def _of_corpus(name: str, common: Sequence[Rated], variants: Sequence[str]) -> Iterator[_Found]:
    rows = [one for one in common if one.question.right]
    if len(rows) < _LEAST:
        return
    texts = {variant: [one.answers[variant] for one in rows] for variant in variants}
    scores = corpus.paired_scores(texts, [one.question.right for one in rows], name)
    means = {variant: Measured(one.value, one.low, one.high) for variant, one in scores.items()}
    control = scores[variants[0]]
    tested = {}
    for variant in variants[1:]:
        apart = scores[variant].value - control.value
        # sacrebleu has the least p there is for answers that are the same: none of its resamples differs from them.
        tested[variant] = _Tested(apart, None, None, scores[variant].p if apart else 1.0, "paired bootstrap")
    yield _Found(name, len(rows), means, tested, control.signature)


def _corrected(found: Sequence[_Found]) -> dict[tuple[str, str], float]:
    first = {(found[0].name, variant): one.p for variant, one in found[0].tested.items()}
    rest = {(other.name, variant): one.p for other in found[1:] for variant, one in other.tested.items()}
    return {**holm(first), **holm(rest)}


def _kinds(common: Sequence[Rated], values: Values) -> dict[str, dict[str, float]]:
    kinds: dict[str, dict[str, list[float]]] = {}
    for variant, told in values.variants.items():
        for row, value in zip(values.rows, told, strict=True):
            if kind := common[row].question.kind:
                kinds.setdefault(kind, {}).setdefault(variant, []).append(value)
    return {
        kind: {variant: sum(told) / len(told) for variant, told in by_variant.items()}
        for kind, by_variant in sorted(kinds.items())
    }


def _differ(common: Sequence[Rated], values: Values, control: str, name: str) -> tuple[str, ...]:
    deltas = [b - a for a, b in zip(values.variants[control], values.variants[name], strict=True)]
    places = sorted((place for place, one in enumerate(deltas) if one), key=lambda place: (deltas[place], place))
    # Losses and gains in turns: a reader wants to see both.
    turns = [place for pair in zip(places, reversed(places), strict=True) for place in pair]
    return tuple(dict.fromkeys(common[values.rows[place]].question.id for place in turns))
