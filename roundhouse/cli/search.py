"""`roundhouse bench search`: the highest rate that keeps an SLO, and what keeps it from growing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roundhouse.cli.bench_run import slos_of
from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of, tell
from roundhouse.core.chat import Sampling
from roundhouse.core.errors import BadResponse

if TYPE_CHECKING:
    from roundhouse.bench.binding import Occupied
    from roundhouse.bench.driver import Ask
    from roundhouse.bench.probe import Probe
    from roundhouse.bench.run import Setup
    from roundhouse.bench.search import Search
    from roundhouse.gateway import Gateway

__all__ = ["search"]

_LEAST = 20


def search(
    slo: Annotated[list[str], typer.Option(help="METRIC=SECONDS, as ttft_sched=0.5; repeatable, all must be kept.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Route or target; with --url, the model there.")] = "",
    url: Annotated[str, typer.Option(help="Measure this server instead of a route.")] = "",
    kind: Annotated[str, typer.Option(help="What the server speaks: openai, ollama, vllm, llamacpp.")] = "openai",
    key: Annotated[str, typer.Option(help="Its key.", envvar="ROUNDHOUSE_BENCH_KEY")] = "",
    dataset: Annotated[str, typer.Option(help="A JSONL file of questions, or `demo`.")] = "demo",
    attainment: Annotated[float, typer.Option(min=0.01, max=0.999, help="Share that must keep them.")] = 0.95,
    start: Annotated[float, typer.Option(min=0.01, help="First rate, requests a second.")] = 1.0,
    most: Annotated[float, typer.Option(min=0.01, help="Never above this rate.")] = 10_000.0,
    resolution: Annotated[float, typer.Option(min=0.01, max=1, help="How narrow, as a share.")] = 0.1,
    trials: Annotated[int, typer.Option(min=2, max=100, help="At most so many rates.")] = 16,
    seconds: Annotated[float, typer.Option(min=1, help="How long each rate is driven.")] = 30.0,
    least: Annotated[int, typer.Option(min=_LEAST, help="Requests of each rate at least.")] = 100,
    seed: Annotated[int, typer.Option(help="Of arrivals and of the order of questions.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Poisson arrivals, faster and faster, then by halves. Exit code 1 if no rate keeps the SLOs."""
    from roundhouse.bench import dataset as datasets
    from roundhouse.bench.run import Setup
    from roundhouse.bench.search import Search, conclude
    from roundhouse.bench.subject import of_gateway, of_url
    from roundhouse.gateway import Gateway

    slos = slos_of(slo)
    if url and not url.startswith(("http://", "https://")):
        raise typer.BadParameter("--url must begin with http:// or https://")
    if start > most:
        raise typer.BadParameter("--start is above --most")
    questions = datasets.read(dataset)
    requests = datasets.requests(questions, Sampling(max_tokens=max_tokens, temperature=0.0), model)
    # Whoever has not answered by then has missed any SLO; waiting longer tells nothing.
    setup = Setup(requests, questions, slos, limit_s=max(slos.values()) + 1, seed=seed)
    asked = Search(attainment, start, min(start, 0.05), most, resolution, trials)
    gateway = None if url else Gateway(settings_of(config))
    opened: AbstractAsyncContextManager[Ask]
    try:
        opened = of_gateway(gateway) if gateway else of_url(url, kind, model, key)
        probes = asyncio.run(_search(opened, setup, asked, seconds, least, _slots_of(gateway, model)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    limit = conclude(asked, [one.trial for one in probes])
    _print(probes, asked, slos, as_json=as_json)
    if not limit.rate:
        raise typer.Exit(1)


async def _search(
    opened: AbstractAsyncContextManager[Ask],
    setup: Setup,
    asked: Search,
    seconds: float,
    least: int,
    slots: Callable[[], Occupied | None],
) -> list[Probe]:
    from roundhouse.bench.arrivals import OpenLoop, Shape
    from roundhouse.bench.probe import probe
    from roundhouse.bench.run import warm_up
    from roundhouse.bench.search import next_rate

    probes: list[Probe] = []
    async with opened as ask:
        loading = replace(setup, limit_s=600.0)
        (first,) = await warm_up(ask, loading)
        if first.error or first.cut:
            raise BadResponse(f"the first request was not answered: {first.error or 'it took too long'}")
        while (rate := next_rate(asked, [one.trial for one in probes])) is not None:
            load = OpenLoop(Shape.POISSON, rate, max(least, math.ceil(rate * seconds)))
            probes.append(await probe(ask, setup, load, asked, slots, len(probes)))
            tell(_said(probes[-1], asked))
    return probes


def _slots_of(gateway: Gateway | None, model: str) -> Callable[[], Occupied | None]:
    """Of the replicas behind `model` that run."""
    from roundhouse.bench.binding import Occupied

    def look() -> Occupied | None:
        if gateway is None:
            return None
        state = gateway.state()
        first = gateway.targets_of(model or "default")[0]
        replicas = [one for one in state["replicas"] if one["target"] == first and one["active"]]
        return Occupied(
            sum(one["busy"] for one in replicas), sum(one["slots"] or 0 for one in replicas), state["waiting"]
        )

    return look


def _said(probe: Probe, asked: Search) -> str:
    trial = probe.trial
    verdict = "stopped: it cannot keep them any more" if trial.stopped else trial.verdict(asked).value
    return f"{trial.rate:8.3g} requests/s: {trial.share * 100:5.1f} % of {trial.judged} kept the SLOs ({verdict})"


def _print(probes: list[Probe], asked: Search, slos: dict[str, float], *, as_json: bool) -> None:
    from roundhouse.bench.binding import binding
    from roundhouse.bench.search import conclude

    limit = conclude(asked, [one.trial for one in probes])
    failed = sorted((one for one in probes if not one.trial.passes(asked)), key=lambda one: one.trial.rate)
    bound = binding(failed[0].load, failed[0].trial.degraded) if failed else None
    if as_json:
        told: list[dict[str, Any]] = [
            {**asdict(one.trial), "verdict": one.trial.verdict(asked).value, "load": asdict(one.load)} for one in probes
        ]
        print_json({"slos": slos, "search": asdict(asked), "limit": asdict(limit),
                    "binding": asdict(bound) if bound else None, "trials": told})  # fmt: skip
        return
    kept = ", ".join(f"{name} <= {seconds:g} s" for name, seconds in slos.items())
    high = "?" if limit.high is None else f"{limit.high:.3g}"
    print(f"highest rate at which {asked.attainment:.1%} keep {kept}: {limit.rate:.3g} requests/s")
    print(f"  surely between {limit.low:.3g} and {high} requests/s; {limit.why}")
    if bound is not None:
        print(f"  bound by {bound.resource.value}: {bound.evidence}\n  to go further: {bound.advice}")
