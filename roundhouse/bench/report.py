"""Runs as one self-contained HTML page: no script, nothing loaded from elsewhere, light or dark as the reader is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from roundhouse.bench.document import document, table
from roundhouse.bench.plot import Line, plot
from roundhouse.bench.records import latency
from roundhouse.bench.results import Point, Results
from roundhouse.bench.sampling import Sample, energy_j
from roundhouse.bench.summary import in_window, values_of
from roundhouse.bench.table import quantile_said

__all__ = ["page"]

_BINS = 60
_MIB = 1 << 20


def page(runs: Sequence[Results], rated: str = "") -> str:
    """The whole document. Names and labels come from outside and are escaped. `rated`: the section about ratings."""
    title = " and ".join(run.label for run in runs)
    body: list[str] = []
    for run in runs:
        body += _run(run)
    body.append(rated)
    body.append(_definitions(runs[0].definitions, runs[0].percentiles))
    return document(f"Benchmark of {title}", body)


def _run(run: Results) -> Iterable[str]:
    about = {**run.subject, **run.settings}
    said = ", ".join(f"{name} {value}" for name, value in about.items() if value not in ("", None))
    place = f"{run.machine.system}, {run.machine.cores} cores, {run.machine.memory_bytes / (1 << 30):.1f} GiB"
    yield f'<h2>{escape(run.label)}</h2><p class="soft">{escape(run.began)} · {escape(said)} · {escape(place)}</p>'
    yield _overview(run.points)
    yield from _sweep(run.points)
    for point in run.points:
        yield from _point(point)


def _overview(points: Sequence[Point]) -> str:
    rows = []
    for point in points:
        told = point.summary
        attainment = "" if told.attainment is None else f"{told.attainment * 100:.1f} %"
        goodput = "" if told.goodput is None else f"{told.goodput:.2f}"
        joules = energy_j(point.samples)
        tokens = told.output_tokens_per_s * told.window_s
        rows.append((
            point.load + (f" (round {point.repeat + 1})" if point.repeat else ""),
            f"{told.answered} of {told.requests}", f"{told.error_rate * 100:.2f} %", f"{told.requests_per_s:.2f}",
            f"{told.output_tokens_per_s:.1f}", goodput, attainment,
            "" if joules is None or not tokens else f"{joules / tokens:.2f}",
        ))  # fmt: skip
    head = ("load", "answered", "errors", "requests/s", "tokens/s out", "goodput, 1/s", "within SLOs", "GPU J/token")
    measured = [index for index in range(len(head)) if any(row[index] for row in rows)]
    return table([head[index] for index in measured], [[row[index] for index in measured] for row in rows])


def _sweep(points: Sequence[Point]) -> Iterable[str]:
    """Curves over the load, where there are several."""
    units = {point.unit for point in points}
    if len({point.level for point in points}) < 2 or len(units) > 1:
        return
    unit = units.pop()
    lines = []
    for name in ("ttft_sched", "e2e_sched"):
        for share in ("p50", "p95"):
            found = sorted(
                (point.level, value * 1000)
                for point in points
                if (value := point.summary.metrics[name][share]["value"]) is not None
            )
            lines.append(Line(f"{name} {share.upper()}", found))
    yield plot("Latency over load", f"offered load, {unit}", "latency, ms", lines)
    speed = sorted((point.level, point.summary.output_tokens_per_s) for point in points)
    yield plot("Throughput over load", f"offered load, {unit}", "tokens/s out", [Line("tokens/s out", speed)])


def _point(point: Point) -> Iterable[str]:
    told = point.summary
    yield f"<h2>{escape(point.load)}{f', round {point.repeat + 1}' if point.repeat else ''}</h2>"
    if told.degraded:
        yield f'<p class="warn">Degraded: {escape(told.degraded)}</p>'
    if told.errors:
        yield "<p>Errors: " + escape(", ".join(f"{name} {count}" for name, count in told.errors.items())) + "</p>"
    rows = [
        (name, str(metric["n"]), *(quantile_said(metric[share]) for share in ("p50", "p95", "p99")))
        for name, metric in told.metrics.items()
        if metric["n"]
    ]
    yield table(("ms [95 % interval]", "n", "P50", "P95", "P99"), rows)
    yield _distribution(point)
    yield from _timeline(point)
    yield _quality(point)


def _distribution(point: Point) -> str:
    measured = in_window(point.records, point.window)
    lines = []
    for name in ("ttft_sched", "ttft", "e2e_sched"):
        values = sorted(values_of(measured, name))
        n = len(values)
        lines.append(
            Line(name, [(value * 1000, (rank + 1) / n * 100) for rank, value in enumerate(values)], steps=True)
        )
    return plot("Distribution of latency", "latency, ms", "share of requests at most so slow, %", lines)


def _timeline(point: Point) -> Iterable[str]:
    span = max((record.end for record in point.records), default=0.0)
    if span <= 0:
        return
    width = span / _BINS
    time = "time since the start, s"
    sent, ended = [0] * (_BINS + 1), [0] * (_BINS + 1)
    late: list[list[float]] = [[] for _ in range(_BINS + 1)]
    for record in point.records:
        place = min(_BINS, int(record.scheduled / width))
        sent[place] += 1
        if record.answered:
            ended[min(_BINS, int(record.end / width))] += 1
        if (value := latency(record, "e2e_sched")) is not None:
            late[place].append(value * 1000)
    rates = [Line(name, [(place * width, count / width) for place, count in enumerate(counts[:_BINS])], steps=True)
             for name, counts in (("due", sent), ("answered", ended))]  # fmt: skip
    yield plot("Rate", time, "requests/s", rates)
    medians = [(place * width, sorted(values)[len(values) // 2]) for place, values in enumerate(late) if values]
    worst = [(place * width, max(values)) for place, values in enumerate(late) if values]
    lines = [Line("median", medians), Line("slowest", worst)]
    yield plot("Latency of what was due then (e2e_sched)", time, "latency, ms", lines)
    yield from _machine(point.samples, time)


def _machine(samples: Sequence[Sample], time: str) -> Iterable[str]:
    def over(value: Callable[[Sample], float]) -> list[tuple[float, float]]:
        return [(sample.at, value(sample)) for sample in samples]

    cores = [Line("ours and our engines'", over(lambda one: one.own_cores)),
             Line("whole machine", over(lambda one: one.machine_cores))]  # fmt: skip
    yield plot("Processor", time, "cores in use", cores)
    memory = [Line("ours and our engines'", over(lambda one: one.own_bytes / _MIB)),
              Line("whole machine", over(lambda one: one.machine_bytes / _MIB))]  # fmt: skip
    yield plot("Memory", time, "MiB in use", memory)
    gpus = range(min((len(sample.gpus) for sample in samples), default=0))
    busy = [Line(f"GPU {gpu}", over(lambda one, gpu=gpu: one.gpus[gpu][0] * 100)) for gpu in gpus]  # type: ignore[misc]
    yield plot("GPU", time, "time busy, %", busy)
    held = [Line(f"GPU {gpu}", over(lambda one, gpu=gpu: one.gpus[gpu][1] / _MIB)) for gpu in gpus]  # type: ignore[misc]
    yield plot("GPU memory", time, "MiB in use", held)
    watts = [Line(f"GPU {gpu}", over(lambda one, gpu=gpu: one.gpus[gpu][2] or 0.0)) for gpu in gpus]  # type: ignore[misc]
    yield plot("GPU power", time, "W", watts)


def _quality(point: Point) -> str:
    quality = point.quality
    if quality is None:
        return ""
    rows = [("exact match", f"{quality.exact_match:.3f}"), ("F1", f"{quality.f1:.3f}"),
            ("ROUGE-L", f"{quality.rouge_l:.3f}")]  # fmt: skip
    for name, value in (("BLEU", quality.bleu), ("chrF", quality.chrf)):
        rows += [(name, f"{value:.2f}")] if value is not None else []
    rows += [(f"exact match, {kind}", f"{share:.3f}") for kind, share in quality.by_kind.items()]
    said = " · ".join((*quality.signatures.values(), *((quality.note,) if quality.note else ())))
    return f"<h3>Quality of {quality.n} answers</h3>{table(('measure', 'value'), rows)}<small>{escape(said)}</small>"


def _definitions(definitions: Mapping[str, str], percentiles: str) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="words">{escape(text)}</td></tr>' for name, text in definitions.items()
    )
    return f"<h2>Definitions</h2><table>{rows}</table><p><small>Percentiles: {escape(percentiles)}.</small></p>"
