"""A run as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from roundhouse.bench.results import Point, Results

__all__ = ["lines", "quantile_said"]

_SHOWN = ("ttft_sched", "ttft", "e2e_sched", "tpot", "itl", "lag")


def lines(results: Results) -> Iterator[str]:
    for point in results.points:
        yield from _point(point)


def quantile_said(told: Mapping[str, Any]) -> str:
    """Milliseconds with the interval, or how many values it would have needed."""
    if told["value"] is None:
        return f"n {told['n']} < {told['needed']}"
    return f"{told['value'] * 1000:.1f} [{told['low'] * 1000:.1f}, {told['high'] * 1000:.1f}]"


def _point(point: Point) -> Iterator[str]:
    told = point.summary
    yield f"{point.load}" + (f" (round {point.repeat + 1})" if point.repeat else "")
    yield (
        f"  {told.answered} answered, {sum(told.errors.values())} failed, {told.cut} cut; {told.requests_per_s:.2f} "
        f"requests/s, {told.output_tokens_per_s:.1f} tokens/s out, over {told.window_s:.1f} s"
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
    if point.samples:
        cores = sum(sample.own_cores for sample in point.samples) / len(point.samples)
        most = max(sample.own_bytes for sample in point.samples)
        yield f"  {cores:.2f} cores and at most {most / (1 << 20):.0f} MiB, ours and our engines'"
    if told.degraded:
        yield f"  DEGRADED: {told.degraded}"
