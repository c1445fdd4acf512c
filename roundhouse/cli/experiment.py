"""`roundhouse experiment`: begin, look, stop, promote; plan one and try out its rules. A running server notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from roundhouse.cli.common import ConfigOption, JSONOption, order, print_json, server_url, settings_of
from roundhouse.config import Settings
from roundhouse.core.errors import InvalidRequest
from roundhouse.experiments.design import Experiment
from roundhouse.experiments.estimate import Difference, Sums
from roundhouse.experiments.sequential import units_for, units_per_arm
from roundhouse.experiments.simulate import interval_of_share, simulate
from roundhouse.experiments.store import Store
from roundhouse.experiments.verdict import MISMATCH, Comparison, Report, judge
from roundhouse.gateway.judging import ANALYSIS_S, data_of
from roundhouse.gateway.keeping import experiments_place
from roundhouse.gateway.labels import current_catalog
from roundhouse.gateway.standings import standing
from roundhouse.gateway.steering import begin, design_of, end
from roundhouse.gateway.trials import designs_of

__all__ = ["app"]

app = typer.Typer(help="Compare prompts, routes and settings on live traffic.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="An experiment of the configuration.")]
ServerOption = Annotated[str, typer.Option("--url", help="A running server; default: this user's, on this machine.")]
_MOST_LOOKS = 200_000_000
_LEAST_UNITS = 20


@app.command("list")
def show_all(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Print the experiments of the configuration, and which of them run."""
    with _opened(config) as (designs, store):
        runs = store.runs()
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "state": runs[name].state.value if name in runs else "not started",
            "arms": design.weights,
            "metric": design.metric,
            "winner": runs[name].winner if name in runs else "",
        }
        for name, design in designs.items()
    ]
    if as_json:
        print_json({"experiments": rows})
        return
    for row in rows:
        arms = ", ".join(f"{arm} {share:.0%}" for arm, share in row["arms"].items())
        print(f"{row['name']}: {row['state']}; {arms}; decided by {row['metric']}")
    if not rows:
        print("the configuration has no experiments (docs/experiments.md)")


@app.command()
def start(name: NameArgument, url: ServerOption = "", config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Begin, or go on; changed weights take effect, and who has an arm keeps it."""
    if url:
        told = order(server_url(url, None), "/admin/experiments/start", {"experiment": name})
    else:
        settings = settings_of(config)
        run = begin(experiments_place(settings), _designs(settings), name)
        told = {"name": name, "state": run.state.value, "weights": dict(run.weights)}
    _tell(as_json, told, f"{name} is running")


@app.command()
def stop(
    name: NameArgument,
    promote: Annotated[str, typer.Option(help="Give everybody this arm from now on.")] = "",
    reason: Annotated[str, typer.Option(help="Kept with the experiment.")] = "by hand",
    url: ServerOption = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """End it: everybody gets what was asked for again, or the arm that is promoted."""
    if url:
        body = {"experiment": name, "promote": promote, "reason": reason}
        told = order(server_url(url, None), "/admin/experiments/stop", body)
    else:
        settings = settings_of(config)
        run = end(experiments_place(settings), _designs(settings), name, promote, reason)
        told = {"name": name, "state": run.state.value, "winner": run.winner}
    said = f"{name}: {promote} is given to everybody" if promote else f"{name} is stopped"
    _tell(as_json, told, said)


@app.command()
def status(name: NameArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Print what the data allow to say, at any time and as often as you like."""
    with _opened(config) as (designs, store):
        design = design_of(designs, name)
        run = store.runs().get(name)
        if run is None:
            raise InvalidRequest(f"{name} was never started; `roundhouse experiment start {name}` does", param="name")
        if as_json:
            print_json(standing(store, design, run))
            return
        data, events = data_of(store, design), store.events(name)
    report = judge(design, data, run.weights)
    print(f"{name} is {run.state.value}: {report.said}")
    for arm in design.arms:
        sums = sum(data.metrics[design.metric].get(arm.name, {}).values(), Sums())
        share = f"{sums.mean:.4g}" if sums.m else "no outcomes"
        print(f"  {arm.name}: {report.units[arm.name]} units, {design.metric} {share} ({sums.m:.0f} outcomes)")
    for one in report.comparisons:
        _print_comparison(design, one)
    _print_ratio(report)
    for at, said in events:
        print(f"  {datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M} {said}")


@app.command()
def power(
    base: Annotated[float | None, typer.Option(min=0, max=1, help="The control's rate; default: from --from.")] = None,
    difference: Annotated[float, typer.Option(help="What should be found, in the metric's unit, such as 0.05.")] = 0.05,
    power: Annotated[float, typer.Option(min=0.01, max=0.9999, help="The chance of finding it.")] = 0.8,
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.5, help="Chance of a false winner.")] = 0.05,
    arms: Annotated[int, typer.Option(min=2, max=100, help="With the control; all are compared with it.")] = 2,
    history: Annotated[str, typer.Option("--from", help="An experiment, whose control tells mean and spread.")] = "",
    metric: Annotated[str, typer.Option(help="Of that experiment, its own or total_s; default: what decides.")] = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Print how many units an experiment needs, on a rate, or on what an earlier one has measured."""
    level = alpha / (arms - 1)
    try:
        if history:
            base, variance = _measured(history, metric, config)
            once, looking = units_for(difference, 2 * variance, level, power)
        elif base is None:
            raise typer.BadParameter("name the control's rate by --base, or an experiment by --from")
        else:
            variance = base * (1 - base)
            once, looking = units_per_arm(base, base + difference, level, power)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    told = {"base": base, "difference": difference, "power": power, "alpha": alpha, "arms": arms}
    said = (
        f"{base:.4g} against {base + difference:.4g}, found with a chance of {power:.0%}: {looking} units of each arm "
        f"if you look at any time, {once} for one look at the end; set `planned: {2 * looking}`"
    )
    counted = {"units_per_arm": looking, "units_per_arm_one_look": once, "variance_of_a_unit": variance}
    _tell(as_json, {**told, **counted}, said)


@app.command("simulate")
def try_out(
    base: Annotated[float, typer.Option(min=0, max=1, help="The control's true rate.")] = 0.5,
    difference: Annotated[float, typer.Option(help="True difference; 0 = an A/A test.")] = 0.0,
    experiments: Annotated[int, typer.Option(min=1, help="How many are simulated.")] = 2000,
    units: Annotated[int, typer.Option(min=50, help="Units of each arm at most.")] = 5000,
    every: Annotated[int, typer.Option(min=1, help="Units of each arm between looks.")] = 50,
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.5)] = 0.05,
    planned: Annotated[int, typer.Option(min=10, help="As in the experiment.")] = 500,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 1,
    as_json: JSONOption = False,
) -> None:
    """Run the rules on outcomes whose truth is known, and print how often they name a winner."""
    if not 0 <= base + difference <= 1:
        raise typer.BadParameter("the other arm's rate lies outside 0 and 1")
    if experiments * (units // every) * every > _MOST_LOOKS:
        raise typer.BadParameter("that would take hours; use fewer experiments or units")
    found = simulate(
        Random(seed),  # noqa: S311 - a simulation
        rates=(base, base + difference),
        experiments=experiments,
        most_units=units,
        look_every=every,
        alpha=alpha,
        planned=planned,
    )
    low, high = interval_of_share(found.decided, experiments)
    kind = "false winners" if difference == 0 else "winners"
    said = (
        f"{experiments} experiments, a look after every {every} units of each arm up to {units}: {kind} in "
        f"{found.decided / experiments:.2%} (95% interval {low:.2%} to {high:.2%}); other arm higher {found.higher}, "
        f"lower {found.lower}; after {found.mean_units:.0f} units of each arm on average"
    )
    _tell(as_json, {**asdict(found), "share": found.decided / experiments, "interval": [low, high]}, said)


def _designs(settings: Settings) -> dict[str, Experiment]:
    return designs_of(settings, current_catalog(settings))


@contextmanager
def _opened(config: Path | None) -> Iterator[tuple[dict[str, Experiment], Store]]:
    settings = settings_of(config)
    with closing(Store(experiments_place(settings), limit_s=ANALYSIS_S)) as store:
        yield _designs(settings), store


def _measured(name: str, metric: str, config: Path | None) -> tuple[float, float]:
    """Mean of the control, and variance of one of its units."""
    with _opened(config) as (designs, store):
        design = design_of(designs, name)
        metric = metric or design.metric
        sums = sum(store.sums(name, metric).get(design.arms[0].name, {}).values(), Sums())
    if sums.units < _LEAST_UNITS:
        said = f"{name} has {sums.units} units with {metric}, which tell no spread; give --base"
        raise InvalidRequest(said, param="from")
    mean, variance = sums.adjusted(0.0)
    return mean, variance * sums.units


def _tell(as_json: bool, told: dict[str, Any], said: str) -> None:
    if as_json:
        print_json(told)
    else:
        print(said)


def _print_comparison(design: Experiment, one: Comparison) -> None:
    control = design.arms[0].name
    print(f"  {one.arm} - {control}, by intention: {_said(one.by_intention)}")
    print(f"  {one.arm} - {control}, as served:    {_said(one.as_served)}")
    for metric, (guard, found) in one.guards.items():
        print(f"  guardrail {metric} (margin {design.guardrails[metric]:g}): {guard.value}; {_said(found)}")


def _said(found: Difference | None) -> str:
    if found is None:
        return "too few outcomes"
    inside = found.interval
    reduced = f", variance reduced by {found.reduced:.0%}" if found.reduced > 0.005 else ""
    return f"{inside.estimate:+.4f} [{inside.low:+.4f}, {inside.high:+.4f}], e-value {found.evidence:.4g}{reduced}"


def _print_ratio(report: Report) -> None:
    for title, value in (("by intention", report.mismatch), ("as served", report.mismatch_served)):
        alarm = "ALARM, the data are not to be trusted" if value >= MISMATCH else "no mismatch"
        print(f"  sample ratio {title}: {alarm} (e-value {value:.3g}, alarm at {MISMATCH:g})")
