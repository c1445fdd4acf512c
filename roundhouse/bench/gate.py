"""Whether a candidate may take a baseline's place; and a revision of a model measured for that."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from roundhouse.bench.arrivals import ClosedLoop
from roundhouse.bench.compare import Row, Verdict
from roundhouse.bench.dataset import Question, requests
from roundhouse.bench.results import VERSION, Results, machine
from roundhouse.bench.run import Setup, Subject, drive
from roundhouse.bench.subject import of_gateway
from roundhouse.config import Settings, TargetSettings
from roundhouse.core.chat import Sampling
from roundhouse.core.errors import BadResponse
from roundhouse.gateway import Gateway
from roundhouse.store.manifest import GGUF
from roundhouse.store.revisions import Revision

__all__ = ["failing", "measured", "target_of"]

_AT_ONCE = 2
_ROUNDS = 2
_ANSWER_TOKENS = 128


def failing(rows: Iterable[Row], *, strict: bool = False) -> list[Row]:
    """Those that stand against the candidate; `strict`: what could not be told does too."""
    bad = {Verdict.SLOWER, Verdict.WORSE, *((Verdict.INCONCLUSIVE,) if strict else ())}
    return [row for row in rows if row.verdict in bad]


def target_of(revision: Revision, settings: Settings, name: str) -> TargetSettings:
    """How this very revision would be run: as the configured target of its model, else with that backend's defaults."""
    manifest = revision.manifest
    kind = "llamacpp" if manifest.format == GGUF else "huggingface"
    named = (manifest.name, f"{manifest.name}:{manifest.variant}")
    known = (one for one in settings.targets if one.type == kind and one.model in named)
    base = next(known, TargetSettings(name=name, type=kind, model=""))
    return replace(base, name=name, model=revision.reference)


async def measured(
    revisions: Sequence[Revision],
    settings: Settings,
    questions: Sequence[Question],
    count: int,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Results]:
    """A run of each over `count` of the questions: two at a time, in turns, by an engine that runs alone.

    Raises `BadResponse` if one answers nothing, and what keeps its engine from starting.
    """
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    subjects = [_subject(revision, settings, questions) for revision in revisions]
    driven = await drive(subjects, [ClosedLoop(_AT_ONCE, count)], rounds=_ROUNDS, tell=tell)
    if driven.ended_early:
        raise BadResponse(f"the comparison could not be ended: {driven.ended_early}")
    for subject, found in zip(subjects, driven.points, strict=True):
        if not any(point.summary.answered for point in found):
            errors = [record.error for point in found for record in point.records if record.error]
            raise BadResponse(f"{subject.name} answers nothing: {errors[0] if errors else 'it took too long'}")
    return [
        Results(VERSION, subject.name, began, {"model": subject.name}, {"count": count}, machine(), found)
        for subject, found in zip(subjects, driven.points, strict=True)
    ]


def _subject(revision: Revision, settings: Settings, questions: Sequence[Question]) -> Subject:
    target = target_of(revision, settings, "candidate")
    alone = replace(settings, targets=(target,), routes={"default": (target.name,)}, experiments={})
    asked = requests(questions, Sampling(max_tokens=_ANSWER_TOKENS, temperature=0.0), target.name)
    return Subject(revision.reference, lambda: of_gateway(Gateway(alone)), Setup(asked, questions))
