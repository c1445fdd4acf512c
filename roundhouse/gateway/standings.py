"""How the experiments of a house stand, and how their intervals came to be what they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from roundhouse.core.errors import InvalidRequest
from roundhouse.database import Place
from roundhouse.experiments.design import Experiment
from roundhouse.experiments.store import Run, Store
from roundhouse.experiments.verdict import Data, judge
from roundhouse.gateway.judging import ANALYSIS_S, data_of

__all__ = ["Standings", "instants", "standing"]

# What lies between two instants of a course, in seconds: a minute to four weeks.
_STEPS_S = (60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86_400, 7 * 86_400, 28 * 86_400)
_MOST_INSTANTS = 48


def instants(started: float, now: float) -> list[float]:
    """At most 48 equally distant times since the start, and now. The earlier ones stay the same while `now` moves on,
    until the distance must grow.
    """
    age = max(0.0, now - started)
    step = next((step for step in _STEPS_S if age / step <= _MOST_INSTANTS), age / _MOST_INSTANTS)
    return [*(started + n * step for n in range(1, math.ceil(age / step))), now]


def standing(store: Store, design: Experiment, run: Run) -> dict[str, Any]:
    """What the data allow to say now, as plain values."""
    report = judge(design, data_of(store, design), run.weights)
    events = [{"at": at, "said": said} for at, said in store.events(run.name)]
    return {"name": run.name, "state": run.state.value, **report.as_dict(), "events": events}


class Standings:
    """Blocks for as long as the sums take; not to be called on an event loop. Raises `StoreError`.

    `designs` may be exchanged. A point of the past is computed once.
    """

    def __init__(self, designs: Mapping[str, Experiment], place: Place) -> None:
        self.designs = designs
        self._place = place
        self._points: dict[str, dict[float, dict[str, Any]]] = {}

    def all(self) -> list[dict[str, Any]]:
        """Every experiment of the configuration; one that was never started has the state `not started`."""
        store = Store(self._place, limit_s=ANALYSIS_S)
        try:
            runs = store.runs()
            return [self._listed(store, design, runs.get(name)) for name, design in self.designs.items()]
        finally:
            store.close()

    def course(self, name: str, now: float) -> list[dict[str, Any]]:
        """The interval of each arm against the control at past times, by the outcomes that were there then, the oldest
        first. Raises `InvalidRequest` for an unknown name.
        """
        design = self.designs.get(name)
        if design is None:
            raise InvalidRequest(f'there is no experiment "{name}"; there are {", ".join(self.designs) or "none"}')
        store = Store(self._place, limit_s=ANALYSIS_S)
        try:
            run = store.runs().get(name)
            return [] if run is None else self._course(store, design, run, now)
        finally:
            store.close()

    def _listed(self, store: Store, design: Experiment, run: Run | None) -> dict[str, Any]:
        about = {
            "metric": design.metric,
            "goal": design.goal.value,
            "concerns": f"prompt {design.prompt}" if design.prompt else f"route {design.route}",
            "control": design.arms[0].name,
            "arms": [arm.name for arm in design.arms],
            "alpha": design.alpha,
        }
        if run is None:
            return {"name": design.name, "state": "not started", **about}
        return {**standing(store, design, run), **about, "started": run.started, "weights": dict(run.weights)}

    def _course(self, store: Store, design: Experiment, run: Run, now: float) -> list[dict[str, Any]]:
        times = instants(run.started, now)
        known = self._points.get(design.name, {})
        points = {at: known.get(at) or self._point(store, design, run, at) for at in times}
        self._points[design.name] = {at: points[at] for at in times[:-1]}
        return list(points.values())

    @staticmethod
    def _point(store: Store, design: Experiment, run: Run, at: float) -> dict[str, Any]:
        sums = store.sums(design.name, design.metric, until=at)
        report = judge(design, Data({design.metric: sums}, {}, {}, {}), run.weights)
        intervals = {one.arm: asdict(one.by_intention.interval) for one in report.comparisons if one.by_intention}
        return {"at": at, "intervals": intervals}
