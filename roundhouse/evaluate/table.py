"""An evaluation as lines for a terminal, and its numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterator

from roundhouse.evaluate.evaluation import Against, Evaluation, Measured, Metric

__all__ = ["SHARES", "change_said", "lines", "p_said", "result_said", "shown", "sided", "value_said"]

# Their values are between 0 and 1, and are told in percent.
SHARES = ("exact_match", "f1", "rouge_l", "json", "refusal", "judge")
_NUMBERS = {"bleu": ".1f", "chrf": ".1f", "characters": ".1f"}


def shown(name: str, value: float, *, sign: bool = False) -> str:
    """A value of the metric `name` without its unit: shares in percent."""
    plus = "+" if sign else ""
    return f"{value * 100:{plus}.1f}" if name in SHARES else f"{value:{plus}{_NUMBERS.get(name, '.4g')}}"


def value_said(name: str, one: Measured) -> str:
    unit = " %" if name in SHARES else ""
    return f"{shown(name, one.value)}{unit} [{shown(name, one.low)}, {shown(name, one.high)}]"


def change_said(name: str, one: Against) -> str:
    unit = " points" if name in SHARES else ""
    said = shown(name, one.change, sign=True) + unit
    if one.low is None or one.high is None:
        return said
    return f"{said} [{shown(name, one.low, sign=True)}, {shown(name, one.high, sign=True)}]"


def p_said(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def result_said(one: Against) -> str:
    """What may be said, and on how many questions."""
    said = one.said or "no difference shown"
    return said if one.gained is None else f"{said} ({one.gained} up, {one.lost} down)"


def sided(told: Evaluation) -> str:
    """The result in a sentence for each variant."""
    first = told.metrics[0]
    parts = []
    for name, one in first.against.items():
        if one.said:
            parts.append(f"{name} is {one.said} than {told.control}: {change_said(first.name, one)}")
        else:
            parts.append(f"{name} and {told.control}: no difference shown, {change_said(first.name, one)}")
    return "; ".join(parts)


def lines(told: Evaluation) -> Iterator[str]:
    """What decides first."""
    variants = len(told.metrics[0].variants)
    yield f"{told.common} of {told.questions} questions of {told.dataset} were answered by all {variants} variants"
    for name, count in told.unanswered.items():
        if count:
            yield f"  {name} has no answer to {count}"
    for number, metric in enumerate(told.metrics):
        yield from _metric(metric, told, decides=number == 0)
    for kind, means in told.kinds.items():
        unit = " %" if told.metrics[0].name in SHARES else ""
        said = ", ".join(f"{name} {shown(told.metrics[0].name, value)}{unit}" for name, value in means.items())
        yield f"{kind}: {said}"
    for note in told.notes:
        yield f"note: {note}"
    yield f"{told.metrics[0].name}: {sided(told)}"


def _metric(metric: Metric, told: Evaluation, *, decides: bool) -> Iterator[str]:
    extra = ", decides" if decides else ""
    few = f", {metric.n} questions" if metric.n != told.common else ""
    yield f"{metric.name} ({told.confidence:.0%} intervals{few}{extra})"
    wide = max(len(name) for name in metric.variants)
    for name, one in metric.variants.items():
        said = f"  {name:<{wide}}  {value_said(metric.name, one):<26}"
        if name in metric.against:
            against = metric.against[name]
            said += f"  {change_said(metric.name, against)}, p {p_said(against.corrected)}, {result_said(against)}"
        yield said.rstrip()
