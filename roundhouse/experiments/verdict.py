"""What the data of an experiment allow to say, and what follows by its rules. Pure.

Every arm is compared with the control at alpha divided by the number of comparisons (Bonferroni), every guardrail at
alpha divided by the number of guardrails and comparisons. While units do not fall to the arms by their shares, nobody
wins: the data are then not those of the experiment that was designed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from roundhouse.experiments.design import Experiment, Goal
from roundhouse.experiments.estimate import Difference, Sums, difference
from roundhouse.experiments.sequential import ratio_evidence

__all__ = ["Comparison", "Data", "Decision", "Guard", "Report", "judge"]

# A chance of less than one in a thousand.
MISMATCH = 1000.0

ByArm = Mapping[str, Mapping[str, Sums]]


class Decision(Enum):
    COLLECTING = "collecting"
    MISMATCH = "sample ratio mismatch"
    HARM = "an arm does harm"
    WINNER = "there is a winner"


class Guard(Enum):
    SAFE = "not worse by more than the margin"
    OPEN = "not known yet"
    BREACHED = "worse by more than the margin"


@dataclass(frozen=True, slots=True)
class Data:
    """`metrics` by name, by intention and as served; `counts`: units by (generation, arm); `shares` by generation."""

    metrics: Mapping[str, ByArm]
    served: ByArm
    counts: Mapping[tuple[str, str], int]
    counts_served: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against the control, by intention and as served; `guards` by metric."""

    arm: str
    by_intention: Difference | None
    as_served: Difference | None
    guards: Mapping[str, tuple[Guard, Difference | None]]
    better: bool = False
    worse: bool = False

    @property
    def harmful(self) -> bool:
        return any(guard is Guard.BREACHED for guard, _ in self.guards.values())

    @property
    def safe(self) -> bool:
        return all(guard is Guard.SAFE for guard, _ in self.guards.values())


@dataclass(frozen=True, slots=True)
class Report:
    """`mismatch`: e-value against the shares that were planned, by intention and as served; 1,000 is an alarm."""

    decision: Decision
    said: str
    winner: str
    comparisons: tuple[Comparison, ...]
    mismatch: float
    mismatch_served: float
    units: Mapping[str, int]

    @property
    def may_promote(self) -> bool:
        """The winner is the control, or every guardrail has shown to hold."""
        if self.decision is not Decision.WINNER:
            return False
        return all(one.safe for one in self.comparisons if one.arm == self.winner)

    def as_dict(self) -> dict[str, Any]:
        return {
            "decision": self.decision.value,
            "said": self.said,
            "winner": self.winner,
            "may_promote": self.may_promote,
            "sample_ratio": {"by_intention": self.mismatch, "as_served": self.mismatch_served, "alarm_at": MISMATCH},
            "units": dict(self.units),
            "comparisons": [_comparison(one) for one in self.comparisons],
        }


def judge(experiment: Experiment, data: Data, shares: Mapping[str, float]) -> Report:
    """`shares`: the weights of the last generation, which is the one whose ratio is tested."""
    control, *others = experiment.arms
    alpha = experiment.alpha / len(others)
    generation = max((int(g) for g, _ in data.counts), default=0)
    units = {arm.name: sum(n for (_, name), n in data.counts.items() if name == arm.name) for arm in experiment.arms}
    comparisons = tuple(_compared(experiment, data, control.name, arm.name, alpha, units) for arm in others)
    mismatch = _mismatch(data.counts, generation, shares)
    decision, winner, said = _decided(experiment, comparisons, mismatch)
    served = _mismatch(data.counts_served, generation, shares)
    return Report(decision, said, winner, comparisons, mismatch, served, units)


def _decided(experiment: Experiment, comparisons: tuple[Comparison, ...], mismatch: float) -> tuple[Decision, str, str]:
    control = experiment.arms[0].name
    if mismatch >= MISMATCH:
        said = "units do not fall to the arms by their shares; find out why before reading anything else"
        return Decision.MISMATCH, "", said
    if harmful := [one.arm for one in comparisons if one.harmful]:
        return Decision.HARM, "", f"{', '.join(harmful)} is worse on a guardrail by more than its margin"
    better = [one for one in comparisons if one.better]
    if better:
        best = max(better, key=lambda one: _gain(experiment, one))
        return Decision.WINNER, best.arm, f"{best.arm} is better than {control} on {experiment.metric}"
    if comparisons and all(one.worse for one in comparisons):
        return Decision.WINNER, control, f"{control} is better than all others on {experiment.metric}"
    return Decision.COLLECTING, "", "no arm is told from the control yet"


def _compared(
    experiment: Experiment, data: Data, control: str, arm: str, alpha: float, units: Mapping[str, int]
) -> Comparison:
    by_arm = data.metrics.get(experiment.metric, {})
    covariate = bool(experiment.covariate)

    def against(one: ByArm, level: float, *, adjust: bool) -> Difference | None:
        return difference(one.get(control, {}), one.get(arm, {}), level, experiment.planned, covariate=adjust)

    found = against(by_arm, alpha, adjust=covariate)
    served = against(data.served, alpha, adjust=covariate)
    guards = {
        metric: _guard(against(data.metrics.get(metric, {}), alpha / len(experiment.guardrails), adjust=False), margin)
        for metric, margin in experiment.guardrails.items()
    }
    enough = min(_outcomes(by_arm, control), _outcomes(by_arm, arm)) >= experiment.least
    up = experiment.goal is Goal.HIGHER
    higher = found is not None and enough and found.interval.low > 0
    lower = found is not None and enough and found.interval.high < 0
    return Comparison(arm, found, served, guards, higher if up else lower, lower if up else higher)


def _outcomes(by_arm: ByArm, arm: str) -> int:
    return sum(sums.units for sums in by_arm.get(arm, {}).values())


def _guard(found: Difference | None, margin: float) -> tuple[Guard, Difference | None]:
    if found is None:
        return Guard.OPEN, None
    if found.interval.low > margin:
        return Guard.BREACHED, found
    return (Guard.SAFE if found.interval.high < margin else Guard.OPEN), found


def _gain(experiment: Experiment, one: Comparison) -> float:
    estimate = one.by_intention.interval.estimate if one.by_intention else 0.0
    return estimate if experiment.goal is Goal.HIGHER else -estimate


def _mismatch(counts: Mapping[tuple[str, str], int], generation: int, shares: Mapping[str, float]) -> float:
    return ratio_evidence({arm: n for (g, arm), n in counts.items() if g == str(generation)}, shares)


def _comparison(one: Comparison) -> dict[str, Any]:
    return {
        "arm": one.arm,
        "by_intention": asdict(one.by_intention) if one.by_intention else None,
        "as_served": asdict(one.as_served) if one.as_served else None,
        "better": one.better,
        "worse": one.worse,
        "guardrails": {
            metric: {"state": guard.value, "difference": asdict(found) if found else None}
            for metric, (guard, found) in one.guards.items()
        },
    }
