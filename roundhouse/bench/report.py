"""Runs as one self-contained HTML page: no script, nothing loaded from elsewhere, light or dark as the reader is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from statistics import fmean

from roundhouse.bench.document import document, table
from roundhouse.bench.plot import Frame, Line, Mark, plot
from roundhouse.bench.records import latency
from roundhouse.bench.results import Point, Results
from roundhouse.bench.sampling import Sample, energy_j, within
from roundhouse.bench.statistics import quantile
from roundhouse.bench.summary import in_window, values_of
from roundhouse.bench.table import notes, quantile_said

__all__ = ["page"]

_BINS, _LEAST_BINS, _A_BIN = 60, 6, 10
_FAR = 100
_OPEN = 3
_LONG_S = 10.0
_PLAIN = Frame()
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
    place = f"{run.machine.system}, {run.machine.cores:g} cores, {run.machine.memory_bytes / (1 << 30):.1f} GiB"
    yield f'<h2>{escape(run.label)}</h2><p class="soft">{escape(run.began)} · {escape(said)} · {escape(place)}</p>'
    if run.ended_early:
        yield f'<p class="warn">Not whole: {escape(run.ended_early)}</p>'
    yield _overview(run.points)
    yield from _sweep(run.points)
    for point in run.points:
        named, body = escape(_named(point)), "".join(_point(point))
        if len(run.points) > _OPEN:  # a sweep is read from its curves; what lies behind each point opens on a click
            yield f"<details><summary>{named}</summary>{body}</details>"
        else:
            yield f"<h2>{named}</h2>{body}"


def _overview(points: Sequence[Point]) -> str:
    rows = []
    for point in points:
        told = point.summary
        attainment = "" if told.attainment is None else f"{told.attainment * 100:.1f} %"
        goodput = "" if told.goodput is None else f"{told.goodput:.2f}"
        joules = energy_j(within(point.samples, point.window.begin, point.window.end))
        tokens = told.output_tokens_per_s * told.window_s
        rows.append((
            _named(point), f"{told.answered} of {told.requests}", f"{told.error_rate * 100:.2f} %",
            f"{told.offered_per_s:.2f}", f"{told.requests_per_s:.2f}", f"{told.output_tokens_per_s:.1f}",
            goodput, attainment, "" if joules is None or not tokens else f"{joules / tokens:.2f}",
        ))  # fmt: skip
    head = ("load", "answered", "errors", "asked/s", "answered/s", "tokens/s out", "goodput, 1/s", "within SLOs",
            "GPU J/token")  # fmt: skip
    measured = [index for index in range(len(head)) if any(row[index] for row in rows)]
    return table([head[index] for index in measured], [[row[index] for index in measured] for row in rows])


def _named(point: Point) -> str:
    return point.load + (f" (round {point.repeat + 1})" if point.repeat else "")


def _sweep(points: Sequence[Point]) -> Iterable[str]:
    """Curves over the load, where there are several; the rounds of one are taken together."""
    levels = sorted({point.level for point in points})
    units = {point.unit for point in points}
    if len(levels) < 2 or len(units) > 1:
        return
    unit = units.pop()
    alike = [[point for point in points if point.level == level] for level in levels]
    label = f"offered load, {unit}"
    yield '<div class="plots">'
    curves = (_curve(name, share, levels, alike) for name in ("ttft_sched", "e2e_sched") for share in (0.5, 0.95))
    lines = [curve for curve in curves if curve is not None]
    yield _latencies("Latency over load [95 % interval]", label, lines)
    answered = [(level, fmean(one.summary.requests_per_s for one in same)) for level, same in _zip(levels, alike)]
    lines = [_dotted("answered", answered)]
    if unit == "requests/s":
        asked = [(level, fmean(one.summary.offered_per_s for one in same)) for level, same in _zip(levels, alike)]
        lines.append(Line("asked", asked))
    if any(one.summary.goodput is not None for one in points):
        good = [(level, fmean(one.summary.goodput or 0.0 for one in same)) for level, same in _zip(levels, alike)]
        lines.append(Line("within the SLOs", good))
    yield plot("Requests over load", label, "requests/s", lines)
    speed = [(level, fmean(one.summary.output_tokens_per_s for one in same)) for level, same in _zip(levels, alike)]
    yield plot("Tokens over load", label, "tokens/s out", [_dotted("tokens/s out", speed)])
    yield "</div>"


def _latencies(title: str, x_label: str, lines: Sequence[Line], frame: Frame = _PLAIN) -> str:
    """`lines` in seconds, shown in the unit that suits the largest."""
    factor, unit = _unit_of([y for line in lines for _, y in line.points])
    shown = [
        replace(
            line,
            points=[(x, y * factor) for x, y in line.points],
            bars=[(x, low * factor, high * factor) for x, low, high in line.bars],
        )
        for line in lines
    ]
    return plot(title, x_label, f"latency, {unit}", shown, frame)


def _unit_of(seconds: Sequence[float]) -> tuple[float, str]:
    return (1.0, "s") if max(seconds, default=0.0) >= _LONG_S else (1000.0, "ms")


def _zip(levels: Sequence[float], alike: Sequence[Sequence[Point]]) -> Iterable[tuple[float, Sequence[Point]]]:
    return zip(levels, alike, strict=True)


def _dotted(name: str, points: Sequence[tuple[float, float]]) -> Line:
    return Line(name, points, bars=[(x, y, y) for x, y in points])


def _curve(name: str, share: float, levels: Sequence[float], alike: Sequence[Sequence[Point]]) -> Line | None:
    """A percentile at each level with its interval; None where every level had too few requests for it."""
    points, bars = [], []
    for level, same in _zip(levels, alike):
        values = [value for point in same for value in values_of(in_window(point.records, point.window), name)]
        found = quantile(values, share)
        if found.value is not None and found.low is not None and found.high is not None:
            points.append((level, found.value))
            bars.append((level, found.low, found.high))
    return Line(f"{name} P{share * 100:g}", points, bars=bars) if points else None


def _point(point: Point) -> Iterable[str]:
    told = point.summary
    yield from (f'<p class="warn">{escape(note)}</p>' for note in notes(told))
    if told.errors:
        yield "<p>Errors: " + escape(", ".join(f"{name} {count}" for name, count in told.errors.items())) + "</p>"
    rows = [
        (name, str(metric["n"]), *(quantile_said(metric[share]) for share in ("p50", "p95", "p99")))
        for name, metric in told.metrics.items()
        if metric["n"]
    ]
    yield table(("ms [95 % interval]", "n", "P50", "P95", "P99"), rows)
    yield '<div class="plots">'
    yield _distribution(point)
    yield from _timeline(point)
    yield "</div>"
    yield _quality(point)


def _distribution(point: Point) -> str:
    measured = in_window(point.records, point.window)
    found = [(name, sorted(values_of(measured, name))) for name in ("ttft_sched", "ttft", "e2e_sched")]
    factor, unit = _unit_of([values[-1] for _, values in found if values])
    lines = [
        Line(name, [(value * factor, (rank + 1) / len(values) * 100) for rank, value in enumerate(values)], steps=True)
        for name, values in found
    ]
    # Where the slowest are far beyond the rest, everything else would be one line at the left.
    least, most = ([values[at] for _, values in found if values] for at in (0, -1))
    log = bool(least) and min(least) > 0 and max(most) > _FAR * min(least)
    title = "Distribution of latency" + (" (logarithmic)" if log else "")
    return plot(title, f"latency, {unit}", "share at most so slow, %", lines, Frame(log_x=log))


def _timeline(point: Point) -> Iterable[str]:
    span = max((record.end for record in point.records), default=0.0)
    if span <= 0:
        return
    bins = max(_LEAST_BINS, min(_BINS, len(point.records) // _A_BIN))
    width = span / bins
    time = "time since the start, s"
    due, ended = [0] * bins, [0] * bins
    late: list[list[float]] = [[] for _ in range(bins)]
    for record in point.records:
        place = min(bins - 1, int(record.scheduled / width))
        due[place] += 1
        if record.answered:
            ended[min(bins - 1, int(record.end / width))] += 1
        if (value := latency(record, "e2e_sched")) is not None:
            late[place].append(value)
    frame = Frame(
        (0.0, span),
        ((0.0, point.window.begin), (point.window.end, span)),
        [Mark(one.at, f"{one.at:.1f} s: {one.what}") for one in point.happened],
    )
    rates = [Line(name, [*((place * width, count / width) for place, count in enumerate(counts)),
                         (span, counts[-1] / width)], steps=True)
             for name, counts in (("asked", due), ("answered", ended))]  # fmt: skip
    yield plot("Rate", time, "requests/s", rates, frame)
    middle = [((place + 0.5) * width, sorted(values)) for place, values in enumerate(late) if values]
    lines = [
        Line("median", [(at, values[(len(values) - 1) // 2]) for at, values in middle]),
        Line("slowest", [(at, values[-1]) for at, values in middle]),
    ]
    yield _latencies("Latency by the time it was due (e2e_sched)", time, lines, frame)
    yield from _machine([sample for sample in point.samples if 0 <= sample.at <= span], time, frame)


def _machine(samples: Sequence[Sample], time: str, frame: Frame) -> Iterable[str]:
    def over(value: Callable[[Sample], float | None]) -> list[tuple[float, float]]:
        return [(sample.at, found) for sample in samples if (found := value(sample)) is not None]

    def of_gpus(place: int, factor: float) -> list[Line]:
        return [
            Line(f"GPU {gpu}", over(partial(_of_gpu, gpu=gpu, place=place, factor=factor)))
            for gpu in range(max((len(sample.gpus) for sample in samples), default=0))
        ]

    cores = [Line("ours and our engines'", over(lambda one: one.own_cores)),
             Line("whole machine", over(lambda one: one.machine_cores))]  # fmt: skip
    yield plot("Processor", time, "cores in use", cores, frame)
    memory = [Line("ours and our engines'", over(lambda one: one.own_bytes / _MIB)),
              Line("whole machine", over(lambda one: one.machine_bytes / _MIB))]  # fmt: skip
    yield plot("Memory", time, "MiB in use", memory, frame)
    yield plot("GPU", time, "time busy, %", of_gpus(0, 100), frame)
    yield plot("GPU memory", time, "MiB in use", of_gpus(1, 1 / _MIB), frame)
    yield plot("GPU power", time, "W", of_gpus(2, 1), frame)


def _of_gpu(sample: Sample, *, gpu: int, place: int, factor: float) -> float | None:
    """None: it is not there, or does not tell."""
    if gpu >= len(sample.gpus):
        return None
    value = sample.gpus[gpu][place]
    return None if value is None else value * factor


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
    said = f"Percentiles: {escape(percentiles)}. Bars are 95 % intervals. What is shaded was driven and not measured."
    return f"<h2>Definitions</h2><table>{rows}</table><p><small>{said}</small></p>"
