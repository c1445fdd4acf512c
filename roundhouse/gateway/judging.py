"""What follows from the data of an experiment by its rules."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing
from random import Random

from roundhouse.core.errors import InvalidRequest
from roundhouse.database import Place
from roundhouse.experiments.design import Allocation, Experiment
from roundhouse.experiments.estimate import Sums
from roundhouse.experiments.store import Run, State, Store
from roundhouse.experiments.thompson import shares
from roundhouse.experiments.verdict import Data, Decision, Report, judge

__all__ = ["ANALYSIS_S", "data_of", "judge_all"]

log = logging.getLogger(__name__)
ANALYSIS_S = 60.0  # how long sums over everything may take


def judge_all(place: Place, designs: Mapping[str, Experiment]) -> None:
    """Stop what does harm, promote what has won where that was asked for; both are logged and kept as events.

    Blocks. Raises `StoreError`.
    """
    with closing(Store(place, limit_s=ANALYSIS_S)) as store:
        store.settle()
        for run in store.runs().values():
            design = designs.get(run.name)
            if design is not None and run.state is State.RUNNING:
                data = data_of(store, design)
                try:
                    _act(store, design, run, data, judge(design, data, run.weights))
                except InvalidRequest as error:
                    log.info("another server was faster: %s", error)


def data_of(store: Store, design: Experiment) -> Data:
    """All that is stored of an experiment, as sums."""
    metrics = {name: store.sums(design.name, name) for name in (design.metric, *design.guardrails)}
    return Data(
        metrics,
        store.sums(design.name, design.metric, served=True),
        store.counts(design.name),
        store.counts(design.name, served=True),
    )


def _act(store: Store, design: Experiment, run: Run, data: Data, report: Report) -> None:
    if report.decision is Decision.HARM:
        store.stop(design.name, report.said, time.time())
        log.warning("experiment %s was stopped: %s", design.name, report.said)
    elif design.auto_promote and report.may_promote:
        store.promote(design.name, report.winner, report.said, time.time())
        log.warning("experiment %s: %s was promoted: %s", design.name, report.winner, report.said)
    elif design.allocation is Allocation.THOMPSON and report.decision is Decision.COLLECTING:
        _reallocate(store, design, run, data)


def _reallocate(store: Store, design: Experiment, run: Run, data: Data) -> None:
    """New shares once enough units have come under the present ones."""
    come = sum(units for (generation, _), units in data.counts.items() if generation == str(run.generation))
    if come < design.batch:
        return
    by_arm = data.metrics[design.metric]
    sums = {arm.name: sum(by_arm.get(arm.name, {}).values(), Sums()) for arm in design.arms}
    new = shares(sums, design.goal, Random(f"{run.salt}{run.generation}"))  # noqa: S311 - the same in every process
    if store.reweigh(design.name, new, run.generation, time.time()):
        log.info("experiment %s: new shares %s", design.name, new)
