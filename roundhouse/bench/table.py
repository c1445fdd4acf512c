"""A run as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from roundhouse.bench.results import Point, Results
from roundhouse.bench.sampling import within
from roundhouse.bench.summary import Summary

__all__ = ["lines", "notes", "quantile_said"]

_WHOLE_TOKENS = 0.8
_MANY = 0.05
_SHOWN = ("ttft_sched", "ttft", "e2e_sched", "tpot", "itl", "lag")


def lines(results: Results) -> Iterator[str]:
    for point in results.points:
        yield from _point(point)


def notes(told: Summary) -> Iterator[str]:
    """What a reader of the numbers must know besides."""
    if not told.requests:
        yield "nothing was due in the measured time: warm-up and cool-down leave none of it"
    if told.degraded:
        yield f"DEGRADED: {told.degraded}"
    if told.late > _MANY * told.answered:
        yield (
            f"{told.late} of {told.answered} answers were ready only after the measured time: the server fell behind, "
            "or answers take long beside it"
        )
    if told.uncounted:
        yield f"{told.uncounted} answers came without a count of their tokens, which are in no number here"
    if told.pieces_per_token and told.pieces_per_token < _WHOLE_TOKENS:
        yield f"{1 / told.pieces_per_token:.1f} tokens come in a piece: itl is between pieces, tpot between tokens"


def quantile_said(told: Mapping[str, Any]) -> str:
    """Milliseconds with the interval, or how many values it would have needed."""
    if told["value"] is None:
        return f"too few: {told['n']} of {told['needed']}"
    value, low, high = (_milliseconds(told[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f}" if seconds < 1 else f"{seconds * 1000:,.0f}"


def _point(point: Point) -> Iterator[str]:
    told = point.summary
    yield f"{point.load}" + (f" (round {point.repeat + 1})" if point.repeat else "")
    yield (
        f"  {told.answered} answered, {sum(told.errors.values())} failed, {told.cut} cut; {told.offered_per_s:.2f} "
        f"asked/s, {told.requests_per_s:.2f} answered/s, {told.output_tokens_per_s:.1f} tokens/s out, "
        f"over {told.window_s:.1f} s"
    )
    if told.errors:
        yield "  errors: " + ", ".join(f"{name} {count}" for name, count in told.errors.items())
    yield f"  {'ms':<11}{'P50':>26}{'P95':>28}{'P99':>28}"
    for name in _SHOWN:
        metric = told.metrics[name]
        if metric["n"]:
            yield f"  {name:<11}" + "".join(
                f"{quantile_said(metric[share]):>{26 if share == 'p50' else 28}}" for share in ("p50", "p95", "p99")
            )
    if told.goodput is not None:
        share = "none could be judged" if told.attainment is None else f"{told.attainment * 100:.1f} % kept them"
        yield f"  goodput {told.goodput:.2f} requests/s within the SLOs; {share}"
    if (quality := point.quality) is not None:
        text = f"  quality of {quality.n}: exact {quality.exact_match:.3f}, F1 {quality.f1:.3f}"
        text += f", ROUGE-L {quality.rouge_l:.3f}"
        if quality.bleu is not None and quality.chrf is not None:
            text += f", BLEU {quality.bleu:.1f}, chrF {quality.chrf:.1f}"
        yield text
        if quality.note:
            yield f"  note: {quality.note}"
    if samples := within(point.samples, point.window.begin, point.window.end):
        cores = sum(sample.own_cores for sample in samples) / len(samples)
        most = max(sample.own_bytes for sample in samples)
        yield f"  {cores:.2f} cores and at most {most / (1 << 20):.0f} MiB, ours and our engines'"
    for one in point.happened:
        yield f"  at {one.at:.1f} s: {one.what}"
    for note in notes(told):
        yield f"  {note}"
