"""An evaluation as one self-contained HTML page, with the very answers in which the variants differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from roundhouse.bench.document import document, table
from roundhouse.bench.scale import ticks
from roundhouse.evaluate.evaluation import Evaluation, Metric
from roundhouse.evaluate.table import SHARES, change_said, p_said, result_said, shown, sided, value_said
from roundhouse.rating.answers import Rated

__all__ = ["page"]

_MOST_SHOWN = 20
_MOST_CHARACTERS = 2_000
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _BOTTOM = 720, 190, 24, 34, 26, 46
_COLOURS = 6
_STYLE = """<style>details{border:1px solid var(--rule);border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer;overflow-wrap:anywhere}.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,18rem),1fr));gap:0 1.5rem}
h3{font-size:1rem;margin:.8rem 0 .2rem}svg .whisker{stroke-width:2}.wide>svg{min-width:40rem}
summary:focus-visible{outline:2px solid var(--c0);outline-offset:3px}svg .zero{stroke:var(--soft);stroke-dasharray:4 3}
.measures :is(th,td):is(:nth-child(2),:last-child){text-align:left}</style>"""


def page(told: Evaluation, rated: Sequence[Rated]) -> str:
    """`rated`: the answers that were evaluated. All names and texts come from outside and are escaped."""
    first = told.metrics[0]
    body = [
        _STYLE,
        f"<p>By {escape(first.name)}: {escape(sided(told))}.</p>",
        f'<p class="soft">{told.common} of {told.questions} questions of {escape(told.dataset)} were answered by all '
        f"{len(first.variants)} variants; the control is {escape(told.control)}.</p>",
        *(f'<p class="warn">{escape(note)}</p>' for note in _warnings(told)),
        _intervals(first, told),
        "<h2>Measures</h2>",
        _measures(told),
    ]
    if told.kinds:
        body += [f"<h2>{escape(first.name)} by kind of question</h2>", _kinds(told)]
    body += _examples(told, rated)
    if told.made_by:
        body += ["<h2>Variants</h2>", _variants(told)]
    body += ["<h2>How this was computed</h2>", *_method(told)]
    return document(f"Evaluation over {told.dataset}", body)


def _warnings(told: Evaluation) -> Iterator[str]:
    for name, count in told.unanswered.items():
        if count:
            yield f"{name} has no answer to {count} questions, which are left out for all"
    yield from told.notes


def _intervals(metric: Metric, told: Evaluation) -> str:
    """Differences from the control with their intervals, one row for each variant."""
    rows = [
        (name, (one.low, one.change, one.high))
        for name, one in metric.against.items()
        if one.low is not None and one.high is not None
    ]
    if not rows:
        return ""
    ends = [value for _, told in rows for value in told]
    axis = ticks(min(0.0, *ends), max(0.0, *ends))
    span = axis[-1] - axis[0]
    height = _TOP + _ROW * len(rows) + _BOTTOM

    def x(value: float) -> float:
        return _LEFT + (value - axis[0]) / span * (_WIDTH - _LEFT - _RIGHT)

    bottom = height - _BOTTOM
    unit = " in points" if metric.name in SHARES else ""
    title = f"{metric.name}: difference from {told.control}, {told.confidence:.0%} intervals"
    parts = [
        f'<div class="wide"><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="0" y="16">{escape(title)}</text>',
    ]
    for value in axis:
        parts.append(f'<path class="grid" d="M{x(value):.1f} {_TOP}V{bottom}"/>')
        label = shown(metric.name, value, sign=value != 0)
        parts.append(f'<text class="tick middle" x="{x(value):.1f}" y="{bottom + 16}">{label}</text>')
    parts.append(f'<path class="zero" d="M{x(0):.1f} {_TOP}V{bottom}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    label = f"{metric.name} minus that of {told.control}{unit}"
    parts.append(f'<text class="label" x="{middle:.0f}" y="{height - 8}">{escape(label)}</text>')
    for number, (name, (low, change, high)) in enumerate(rows):
        parts += _row(name, (x(low), x(change), x(high)), _TOP + _ROW * (number + 0.5), number % _COLOURS)
    return "".join([*parts, "</svg></div>"])


def _row(name: str, ends: tuple[float, float, float], y: float, colour: int) -> Iterator[str]:
    """`ends`: where its interval begins, where its value is, where the interval ends."""
    short = name if len(name) <= 26 else f"{name[:25]}\u2026"
    low, value, high = ends
    yield f'<text class="end" x="{_LEFT - 12}" y="{y + 4:.1f}">{escape(short)}</text>'
    yield f'<path class="whisker line c{colour}" d="M{low:.1f} {y:.1f}H{high:.1f}"/>'
    yield f'<circle cx="{value:.1f}" cy="{y:.1f}" r="4.5" style="fill:var(--c{colour})"/>'


def _measures(told: Evaluation) -> str:
    head = ("measure", "variant", "questions", "value", f"against {told.control}", "p", "result")
    rows = []
    for metric in told.metrics:
        for name, one in metric.variants.items():
            against = metric.against.get(name)
            compared = ("", "", "")
            if against is not None:
                compared = (change_said(metric.name, against), p_said(against.corrected), result_said(against))
            shown_name = metric.name if name == told.control else ""
            rows.append((shown_name, name, str(metric.n), value_said(metric.name, one), *compared))
    return f'<div class="measures">{table(head, rows)}</div>'


def _kinds(told: Evaluation) -> str:
    names = list(told.metrics[0].variants)
    unit = " %" if told.metrics[0].name in SHARES else ""
    rows = [
        (kind, *(shown(told.metrics[0].name, means[name]) + unit if name in means else "" for name in names))
        for kind, means in told.kinds.items()
    ]
    return table(("kind", *names), rows)


def _examples(told: Evaluation, rated: Sequence[Rated]) -> Iterator[str]:
    by_id = {one.question.id: one for one in rated}
    for name, ids in told.differ.items():
        if not ids:
            continue
        yield f"<h2>Where {escape(name)} and {escape(told.control)} differ</h2>"
        yield f'<p class="soft">{min(len(ids), _MOST_SHOWN)} of {len(ids)} questions, losses and gains in turns.</p>'
        for number in ids[:_MOST_SHOWN]:
            yield _example(by_id[number], (told.control, name))


def _example(one: Rated, names: tuple[str, str]) -> str:
    asked = "\n\n".join(text for _, text in one.question.messages)
    parts = [f"<details><summary>{escape(asked[:200])}</summary>"]
    if len(asked) > 200:
        parts.append(_text("Question", asked))
    if one.question.context:
        parts.append(_text("Context", one.question.context))
    if one.question.right:
        parts.append(_text("Right answer", one.question.right[0]))
    pair = "".join(f"<div>{_text(name, one.answers[name])}</div>" for name in names)
    return "".join([*parts, f'<div class="pair">{pair}</div></details>'])


def _text(title: str, text: str) -> str:
    cut = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} [cut, of {len(text)} characters]"
    return f'<h3>{escape(title)}</h3><div class="text">{escape(cut) or "(empty)"}</div>'


def _variants(told: Evaluation) -> str:
    rows = []
    for name in told.metrics[0].variants:
        made_by = told.made_by.get(name, {})
        settings = ", ".join(f"{key} {value}" for key, value in made_by.get("settings", {}).items())
        version = f"@{made_by['version']}" if made_by.get("version") else ""
        prompt = f"{made_by.get('prompt', '').partition('@')[0]}{version}" or "none"
        rows.append((name, made_by.get("route") or "default", made_by.get("model", ""), prompt, settings or "none"))
    return table(("variant", "route", "model", "prompt", "settings"), rows)


def _method(told: Evaluation) -> Iterator[str]:
    signatures = [f"{one.name}: {one.signature}" for one in told.metrics if one.signature]
    tests = sorted({one.test for metric in told.metrics for one in metric.against.values()})
    yield (
        f"<p>Values are means over the same questions with {told.confidence:.0%} intervals by the bootstrap over "
        f"questions (10,000 resamples, seed {told.seed}). Tests in pairs: {escape('; '.join(tests))}. "
        f"{escape(told.metrics[0].name)} "
        "decides: its p-values are corrected for the number of variants (Holm), those of all other measures together. "
        "A difference is said where the corrected p is below "
        f"{1 - told.confidence:.2g}; where none is said there may still be one that so few questions cannot show. An "
        "interval is of one comparison by itself and approximate, so it may leave 0 out where the exact, corrected "
        "test says nothing: then believe the test.</p>"
    )
    if signatures:
        yield f"<p><small>{escape('; '.join(signatures))}</small></p>"
