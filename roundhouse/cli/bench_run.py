"""`roundhouse bench run`: a load, or several, over one subject, or over two in turns."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import signal
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from roundhouse.cli.bench import MarginOption, write_report
from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of, tell
from roundhouse.core.chat import Sampling
from roundhouse.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roundhouse.bench.arrivals import Arrivals
    from roundhouse.bench.compare import Row
    from roundhouse.bench.results import Results
    from roundhouse.bench.run import Setup, Subject
    from roundhouse.config import Settings

__all__ = ["run", "slos_of"]

_ROUNDS = 4


def run(
    model: Annotated[str, typer.Option("--model", "-m", help="Route or target; with --url, the model there.")] = "",
    url: Annotated[str, typer.Option(help="Measure this server instead of a route.")] = "",
    against: Annotated[str, typer.Option(help="Another route, target or model, in turns with the first.")] = "",
    against_url: Annotated[str, typer.Option(help="Another server, in turns with the first.")] = "",
    kind: Annotated[str, typer.Option(help="What the server speaks: openai, ollama, vllm, llamacpp.")] = "openai",
    key: Annotated[str, typer.Option(help="Its key.", envvar="ROUNDHOUSE_BENCH_KEY")] = "",
    dataset: Annotated[str, typer.Option(help="A JSONL file of questions, or `demo`.")] = "demo",
    rate: Annotated[list[float] | None, typer.Option(help="Requests a second; several make a sweep.")] = None,
    users: Annotated[list[int] | None, typer.Option(min=1, help="So many at once instead; several = a sweep.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Send at the times of this JSONL instead.")] = None,
    arrivals: Annotated[str, typer.Option(help="constant, poisson or ramp.")] = "poisson",
    to_rate: Annotated[float, typer.Option(help="Rate at which a ramp ends.")] = 0.0,
    burstiness: Annotated[float, typer.Option(help="Poisson: above 1 is smoother, below it burstier.")] = 1.0,
    count: Annotated[int, typer.Option(min=1, help="Requests of each load.")] = 400,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Rounds; every other one goes backwards. Default 1, against another 4.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of arrivals and of the order of questions.")] = 0,
    slo: Annotated[list[str] | None, typer.Option(help="METRIC=SECONDS, as ttft=0.5; repeatable.")] = None,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds at the start that are not measured.")] = 0.0,
    cooldown: Annotated[float, typer.Option(min=0, help="Seconds at the end that are not measured.")] = 0.0,
    limit: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for answers after the last request.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Write the results here, as JSON.")] = None,
    out_against: Annotated[Path | None, typer.Option(help="Those of the other one here.")] = None,
    margin: MarginOption = 0.05,
    html: Annotated[Path | None, typer.Option(help="Write a report here.")] = None,
    texts: Annotated[bool, typer.Option("--texts", help="Keep the answers in the results.")] = False,
    label: Annotated[str, typer.Option(help="Name of the run in reports.")] = "",
    keep: Annotated[bool, typer.Option(help="Keep it among the last runs, which the dashboard shows.")] = True,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Drive a route or a server under one load or several, and measure.

    Without --rate, --users or --trace: 4 requests a second. With --against, a second one takes turns with it (ABBA), so
    that what drifts weighs on both, and a verdict is given for each metric. Exit code 1 if one answered no request.
    Ctrl-C ends it with what was measured so far; once more ends it at once.
    """
    from roundhouse.bench import dataset as datasets
    from roundhouse.bench.run import Setup

    if sum((bool(rate), bool(users), trace is not None)) > 1:
        raise typer.BadParameter("give --rate, --users or --trace; they are three kinds of load")
    if out_against is not None and not (against or against_url):
        raise typer.BadParameter("--out-against needs --against or --against-url")
    for file in filter(None, (out, out_against, html)):
        _check_place(file)
    loads = _loads(rate, users, trace, arrivals, to_rate, burstiness, count, seed)
    questions = datasets.read(dataset)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
    setup = Setup((), questions, slos_of(slo or []), warmup, cooldown, limit, seed, texts=texts)
    where = [_Where(url, kind, model, key)]
    if against or against_url:
        where.append(_Where(against_url or url, kind, against, key))
    subjects = _subjects(where, setup, sampling, config)
    asked = {"dataset": dataset, "seed": seed, "max_tokens": max_tokens, "temperature": temperature}
    rounds = repeat or (1 if len(where) == 1 else _ROUNDS)
    try:
        results = asyncio.run(_run(subjects, loads, rounds, [one.told for one in where], asked))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if label:
        results[0] = replace(results[0], label=label)
    written = _written(results, (out, out_against), html)
    for result in results if keep else ():
        if not result.ended_early:
            _keep(result)
    _print(results, margin, as_json)
    _exit_unless_whole(results, written)


@dataclass(frozen=True, slots=True)
class _Where:
    """A server by its URL, or a route of the configuration."""

    url: str
    kind: str
    model: str
    key: str

    @property
    def name(self) -> str:
        return (f"{self.model} at {self.url}" if self.model else self.url) if self.url else self.model or "default"

    @property
    def told(self) -> dict[str, str]:
        if self.url:
            return {"url": self.url, "kind": self.kind, "model": self.model}
        return {"route": self.model or "default"}

    def subject(self, setup: Setup, settings: Settings | None) -> Subject:
        from roundhouse.bench.happenings import Happenings
        from roundhouse.bench.run import Subject
        from roundhouse.bench.subject import of_gateway, of_url
        from roundhouse.gateway import Gateway

        seen = Happenings()
        if settings is None or self.url:
            if not self.url.startswith(("http://", "https://")):
                raise typer.BadParameter(f"a URL begins with http:// or https://, not {self.url}")
            return Subject(self.name, lambda: of_url(self.url, self.kind, self.model, self.key, seen), setup, seen)
        return Subject(self.name, lambda: of_gateway(Gateway(settings), seen), setup, seen)


def _subjects(where: list[_Where], setup: Setup, sampling: Sampling, config: Path | None) -> list[Subject]:
    """Each with the questions as it is to be asked; a configuration is read only where a route is measured."""
    from roundhouse.bench import dataset as datasets

    settings = None if all(one.url for one in where) else settings_of(config)
    return [
        one.subject(replace(setup, requests=datasets.requests(setup.questions, sampling, one.model)), settings)
        for one in where
    ]


def _loads(
    rates: list[float] | None,
    users: list[int] | None,
    trace: Path | None,
    arrivals: str,
    to_rate: float,
    burstiness: float,
    count: int,
    seed: int,
) -> list[Arrivals]:
    from roundhouse.bench.arrivals import ClosedLoop, OpenLoop, Shape, plan, read_trace

    if users:
        return [ClosedLoop(one, count) for one in users]
    if trace is not None:
        loads = [OpenLoop(Shape.REPLAY, trace=read_trace(trace))]
    else:
        shapes = (Shape.CONSTANT.value, Shape.POISSON.value, Shape.RAMP.value)
        if arrivals not in shapes:
            raise typer.BadParameter(f"--arrivals is one of {', '.join(shapes)}, not {arrivals}")
        loads = [OpenLoop(Shape(arrivals), one, count, to_rate, burstiness, seed) for one in rates or [4.0]]
    for load in loads:
        plan(load)  # refused before anything is started
    return list(loads)


def slos_of(given: list[str]) -> dict[str, float]:
    """METRIC=SECONDS as a mapping; raises `BadParameter`."""
    from roundhouse.bench.records import DEFINITIONS

    known = [name for name in DEFINITIONS if name not in ("itl", "lag")]
    found = {}
    for one in given:
        name, _, seconds = one.partition("=")
        try:
            found[name] = float(seconds)
        except ValueError:
            raise typer.BadParameter(f"--slo is METRIC=SECONDS, as ttft=0.5, not {one}") from None
        if name not in known:
            raise typer.BadParameter(f"--slo {one}: there is no metric {name}; there are {', '.join(known)}")
    return found


async def _run(
    subjects: list[Subject],
    loads: list[Arrivals],
    rounds: int,
    told: list[dict[str, str]],
    asked: dict[str, Any],
) -> list[Results]:
    from roundhouse.bench.results import VERSION, Results, machine
    from roundhouse.bench.run import drive

    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with _until_interrupted() as stop:
        driven = await drive(subjects, loads, rounds=rounds, tell=tell, stop=stop)
    found = [
        Results(VERSION, one.name, began, said, asked, machine(), points, one.setup.slos,
                ended_early=driven.ended_early)
        for one, said, points in zip(subjects, told, driven.points, strict=True) if points
    ]  # fmt: skip
    if not found:
        raise KeyboardInterrupt  # stopped before anything was asked
    return found


@contextlib.contextmanager
def _until_interrupted() -> Iterator[asyncio.Event]:
    """Set by the first Ctrl-C or SIGTERM; the next one ends the program as ever."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def interrupted() -> None:
        tell("roundhouse: stopping; once more ends it at once")
        stop.set()
        restore()

    def restore() -> None:
        for one in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(one)

    for one in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # where loops know no signals, Ctrl-C is as ever
            loop.add_signal_handler(one, interrupted)
    try:
        yield stop
    finally:
        restore()


def _check_place(path: Path) -> None:
    """Refused before anything is started: an hour later it is too late."""
    if path.is_dir():
        raise typer.BadParameter(f"{path} cannot be written: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror or error}") from error


def _written(results: list[Results], outs: tuple[Path | None, Path | None], html: Path | None) -> bool:
    """Whether every file that was asked for could be written; why one could not is said, and the others still are."""
    from roundhouse.bench.results import write

    jobs = [(path, partial(write, path, one)) for path, one in zip(outs, results, strict=False) if path is not None]
    jobs += [(html, partial(write_report, html, results))] if html is not None else []
    whole = True
    for path, job in jobs:
        try:
            job()
        except OSError as error:
            tell(f"roundhouse: {path} could not be written: {error.strerror or error}")
            whole = False
    return whole


def _print(results: list[Results], margin: float, as_json: bool) -> None:
    from roundhouse.bench.table import lines

    rows, comparison = _compared(results, margin)
    if as_json:
        told = [_without_records(one) for one in results]
        print_json({"runs": told, "rows": [asdict(row) for row in rows]} if rows else told[0])
    else:
        print("\n\n".join("\n".join(((f"{one.label}:",) if rows else ()) + tuple(lines(one))) for one in results))
        print(comparison, end="")


def _exit_unless_whole(results: list[Results], written: bool) -> None:
    """130 if somebody stopped it; 1 if it ended early, a file is missing or one answered nothing under a load."""
    from roundhouse.bench.run import STOPPED

    early = results[0].ended_early
    if early:
        tell(f"roundhouse: the run is not whole: {early}; what was measured before is here")
    if early == STOPPED:
        raise typer.Exit(130)
    if early or not written or not all(any(point.summary.answered for point in one.points) for one in results):
        raise typer.Exit(1)


def _compared(results: list[Results], margin: float) -> tuple[list[Row], str]:
    """The second beside the first; nothing for one alone, or if one was not measured under a load of the other."""
    from roundhouse.bench.compare import compare, markdown

    if len(results) == 1:
        return [], ""
    a, b = results
    if a.ended_early and not {one.load for one in a.points} & {one.load for one in b.points}:
        return [], ""
    rows, notes = compare(a, b, margin=margin)
    return rows, "\n" + markdown(rows, notes, (a.label, b.label))


def _keep(results: Results) -> None:
    """Without the texts of questions and answers, which `--texts` puts into `--out` alone."""
    from roundhouse.bench.report import page
    from roundhouse.gateway.keeping import runs_folder
    from roundhouse.history.runs import keep

    points = [replace(one, records=[replace(record, text="") for record in one.records]) for one in results.points]
    bare = replace(results, points=points)
    try:
        keep(runs_folder(), results.began, msgspec.json.encode(bare), _without_records(bare), page([bare]))
    except StoreError as error:  # it was measured all the same
        tell(f"roundhouse: {error}")


def _without_records(results: Results) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(results)
    for point in told["points"]:
        del point["records"], point["samples"]
    return told
