"""An evaluation from beginning to end: ask what is missing, judge, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roundhouse.config import Settings
from roundhouse.core.chat import Sampling
from roundhouse.core.errors import InvalidRequest
from roundhouse.evaluate.evaluation import Evaluation, Values, common_of, default_metrics, evaluate
from roundhouse.evaluate.judge import METRIC, PROMPT, judge
from roundhouse.experiments.design import Arm
from roundhouse.gateway import Gateway
from roundhouse.rating.answers import Question, Rated, read_answers
from roundhouse.rating.produce import produce
from roundhouse.scoring import corpus
from roundhouse.scoring.scorers import find

__all__ = ["Outcome", "Plan", "run"]

_MOST_TOLD = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """`metrics`: the first one decides; empty = what the answers allow. `judge`: a route, empty = nobody judges."""

    dataset: str
    metrics: tuple[str, ...] = ()
    judge: str = ""
    judge_prompt: str = PROMPT
    sampling: Sampling = field(default_factory=Sampling)
    at_once: int = 4
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`rated`: the answers that were evaluated; `failed`: why others, or judgements, could not be had."""

    evaluation: Evaluation
    rated: Sequence[Rated]
    failed: Sequence[str] = field(default=())


async def run(
    settings: Settings,
    answers: Path,
    arms: Sequence[Arm],
    questions: Sequence[Question],
    plan: Plan,
    tell: Callable[[str], None],
) -> Outcome:
    """`answers` keeps what the arms say; without arms it is evaluated as it is, and its first variant is the control.

    Raises `InvalidRequest` for what cannot be compared or measured, before anything is asked where that can be known.
    """
    for name in plan.metrics:
        if name not in corpus.METRICS and name != METRIC:
            find(name)
    if METRIC in plan.metrics and not plan.judge:
        raise InvalidRequest("the metric `judge` needs a judge", param="judge")
    failed: list[str] = []
    judged: dict[str, Values] = {}
    notes: list[str] = []
    made_by: dict[str, Any] = {}
    if not (arms or plan.judge):
        variants, rated = _joined(answers, questions, ())
        return Outcome(_evaluated(plan, variants, rated, {}, judged, notes), rated)
    async with Gateway(settings) as gateway:
        for notice in gateway.notices:
            tell(f"note: {notice}")
        if plan.judge:
            gateway.targets_of(plan.judge)  # or nobody need be asked for what it is to judge
        if arms:
            made = await produce(
                gateway, arms, questions, answers, sampling=plan.sampling, at_once=plan.at_once, tell=tell
            )
            made_by = made.made_by
            failed += [f"{name}, question {number}: {said}" for (name, number), said in made.reasons.items()]
            for reason in failed[:_MOST_TOLD]:
                tell(reason)
        variants, rated = _joined(answers, questions, [arm.name for arm in arms])
        if plan.judge:
            common = common_of(rated, variants)
            said = await judge(
                gateway,
                plan.judge,
                common,
                variants,
                answers.with_suffix(".judged.jsonl"),
                prompt=plan.judge_prompt,
                at_once=plan.at_once,
                tell=tell,
            )
            judged[METRIC] = said.values(common, variants)
            notes += said.notes()
            failed += [f"judge: {reason}" for reason in said.reasons]
    return Outcome(_evaluated(plan, variants, rated, made_by, judged, notes), rated, failed)


def _joined(
    answers: Path, questions: Sequence[Question], wanted: Sequence[str]
) -> tuple[Sequence[str], Sequence[Rated]]:
    """The variants, the control first, and their answers to these questions."""
    told = {one.question.id: one for one in read_answers(answers)}
    found = []
    for question in questions:
        one = told.get(question.id)
        if one is None:
            continue
        if (one.question.messages, one.question.context) != (question.messages, question.context):
            said = f'{answers}: the id "{question.id}" stands for another question in the dataset'
            raise InvalidRequest(said, param="answers")
        found.append(Rated(question, one.answers))
    if not found:
        said = f"{answers} answers none of the questions of the dataset; name the right one by --dataset"
        raise InvalidRequest(said, param="dataset")
    variants = list(wanted) or list(dict.fromkeys(name for one in found for name in one.answers))
    return variants, found


def _evaluated(
    plan: Plan,
    variants: Sequence[str],
    rated: Sequence[Rated],
    made_by: Mapping[str, Any],
    judged: Mapping[str, Values],
    notes: Sequence[str],
) -> Evaluation:
    metrics = list(plan.metrics) or default_metrics(rated)
    if judged and METRIC not in metrics:
        # Where nobody knows the right answers, the judge decides.
        metrics.insert(0 if not plan.metrics and metrics[0] == "characters" else len(metrics), METRIC)
    return evaluate(
        rated,
        variants,
        metrics,
        dataset=plan.dataset,
        confidence=plan.confidence,
        seed=plan.seed,
        made_by=made_by,
        judged=judged,
        notes=notes,
    )
