"""`roundhouse bench`: is it fast, is it good, what does it use; and is the one run better than the other."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roundhouse.cli.common import JSONOption, print_json
from roundhouse.core.errors import InvalidRequest
from roundhouse.core.files import write_atomically

if TYPE_CHECKING:
    from roundhouse.bench.results import Results

__all__ = ["MarginOption", "app", "write_report"]

app = typer.Typer(help="Measure speed, quality and load; compare two runs.", no_args_is_help=True)

ResultsArgument = Annotated[Path, typer.Argument(help="A file of results, by `bench run --out`.")]
MarginOption = Annotated[float, typer.Option(min=0, max=1, help="A change within this share counts as none.")]


@app.command("compare")
def compare(
    a: ResultsArgument,
    b: ResultsArgument,
    margin: MarginOption = 0.05,
    as_json: JSONOption = False,
) -> None:
    """For each metric: is B faster or slower than A, equivalent, or can it not be told."""
    rows, notes, text = _compared(a, b, margin)
    if as_json:
        print_json({"margin": margin, "rows": [asdict(row) for row in rows], "notes": notes})
    else:
        print(text, end="")


@app.command("gate")
def gate(
    baseline: ResultsArgument,
    candidate: ResultsArgument,
    margin: MarginOption = 0.05,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this metric, as ttft_sched.p95; repeatable. Default: all.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Inconclusive fails too.")] = False,
    comment: Annotated[Path | None, typer.Option(help="Write the Markdown comment here.")] = None,
) -> None:
    """Exit code 1 if the candidate is slower, or has more errors, than the baseline; a Markdown comment either way."""
    from roundhouse.bench.gate import failing

    rows, _, text = _compared(baseline, candidate, margin)
    judged = [row for row in rows if not metric or row.metric in metric]
    if missing := set(metric or ()) - {row.metric for row in rows}:
        raise InvalidRequest(f"the runs cannot be compared by {min(missing)}; see `bench compare`", param="metric")
    failed = failing(judged, strict=strict)
    said = f"**{'failed' if failed else 'passed'}**" + (
        ": " + ", ".join(f"{row.metric} {row.verdict.value}" for row in failed) if failed else ""
    )
    text = f"{said}\n\n{text}"
    if comment is not None:
        write_atomically(comment, text.encode())
    print(text, end="")
    if failed:
        raise typer.Exit(1)


@app.command("report")
def report(
    results: Annotated[list[Path], typer.Argument(help="Files of results; several are set side by side.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    ratings: Annotated[Path | None, typer.Option(help="What people said of the answers, by `rate open`.")] = None,
) -> None:
    """One self-contained HTML file with plots and tables."""
    from roundhouse.bench.results import read

    write_report(out, [read(path) for path in results], ratings)
    print(out)


@app.command("schema")
def schema() -> None:
    """The JSON Schema of a file of results."""
    from roundhouse.bench.results import schema as of_results

    print_json(of_results())


@app.command("selftest")
def selftest(
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 100.0,
    count: Annotated[int, typer.Option(min=20, help="Requests.")] = 1000,
    ttft: Annotated[float, typer.Option(min=0, help="Seconds the mock takes to its first token.")] = 0.2,
    itl: Annotated[float, typer.Option(min=0, help="Seconds it takes between tokens.")] = 0.02,
    tokens: Annotated[int, typer.Option(min=1)] = 16,
    spread: Annotated[float, typer.Option(min=0, help="Up to so many times longer to the first token.")] = 0.0,
    as_json: JSONOption = False,
) -> None:
    """The load generator's own error: it is driven against a mock that tells what it took, token by token."""
    from roundhouse.bench.mock import Timing
    from roundhouse.bench.selftest import selftest as test

    told = asyncio.run(test(rate, count, Timing(ttft, itl, tokens, spread)))
    if as_json:
        print_json({**asdict(told), "errors": [{**asdict(one), "share": one.share} for one in told.errors]})
        return
    print(f"{told.requests} requests, {told.failed} failed; {told.achieved_per_s:.1f} of {told.rate:g} requests/s sent")
    print(f"P99 lag of sending {_ms(told.lag.value)}; P99 added to the first token {_ms(told.added.value)}")
    for one in told.errors:
        share = "" if one.share is None else f"{one.share * 100:+6.2f} %"
        named = f"{one.metric} P{one.percentile:g}"
        print(f"{named:9} the mock took {_ms(one.true_s)}, measured {_ms(one.measured_s)} {share}")


def _ms(seconds: float | None) -> str:
    return "too few" if seconds is None else f"{seconds * 1000:8.3f} ms"


def _compared(a: Path, b: Path, margin: float) -> tuple[list[Any], list[str], str]:
    from roundhouse.bench.compare import compare as compared
    from roundhouse.bench.compare import markdown
    from roundhouse.bench.results import read

    first, second = read(a), read(b)
    rows, notes = compared(first, second, margin=margin)
    return rows, notes, markdown(rows, notes, (first.label, second.label))


def write_report(path: Path, results: list[Results], ratings: Path | None = None) -> None:
    """The HTML page of the runs, side by side, and of what people preferred if there are `ratings`."""
    from roundhouse.bench.report import page

    rated = "" if ratings is None else _rated(ratings, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(results, rated).encode())


def _rated(ratings: Path, results: list[Results]) -> str:
    from roundhouse.bench.rated import section
    from roundhouse.rating.status import status_of
    from roundhouse.rating.store import Store

    with closing(Store(ratings)) as store:
        return section(status_of(store), results)
