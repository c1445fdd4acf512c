"""The `roundhouse` command: its groups, and how an error ends it.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from roundhouse.cli import (
    ask,
    bench,
    bench_run,
    config,
    deploy,
    doctor,
    drift,
    evaluate,
    experiment,
    faults,
    keys,
    models,
    operate,
    plan,
    prompts,
    ps,
    rate,
    search,
    serve,
    state,
    stats,
)
from roundhouse.core.errors import Error

__all__ = ["main"]

app = typer.Typer(
    name="roundhouse",
    help="One contract over the backends that run your language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("ask")(ask.ask)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.command("plan")(plan.plan)
app.command("ps")(ps.ps)
app.command("drift")(drift.drift)
app.command("evaluate")(evaluate.evaluate)
app.command("switch")(operate.switch)
app.command("load")(operate.load)
app.command("unload")(operate.unload)
app.command("reload")(operate.reload)
app.add_typer(config.app, name="config")
app.add_typer(state.app, name="state")
app.add_typer(deploy.app, name="deploy")
app.add_typer(faults.app, name="faults")
app.add_typer(keys.app, name="keys")
bench.app.command("run")(bench_run.run)
bench.app.command("search")(search.search)
app.add_typer(bench.app, name="bench")
app.add_typer(models.app, name="models")
app.add_typer(experiment.app, name="experiment")
app.add_typer(rate.app, name="rate")
app.add_typer(prompts.app, name="prompts")
app.add_typer(stats.app, name="stats")


def _version(asked: bool) -> None:
    if asked:
        print(f"roundhouse {version('roundhouse')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option(help="Show tracebacks and the log.")] = False,
) -> None:
    context.ensure_object(dict)["debug"] = debug
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if not debug and context.invoked_subcommand != "serve":
        # A person at the terminal is told by the output; an operator wants to read of every failover.
        logging.getLogger("roundhouse").setLevel(logging.ERROR)


def main() -> None:
    """Run the command line and leave with its exit code."""
    state: dict[str, bool] = {}
    try:
        code = app(standalone_mode=False, obj=state)
    except Error as error:
        if state.get("debug"):
            raise
        print(f"roundhouse: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except typer.Exit as left:
        sys.exit(left.exit_code)
    except Exception as error:
        _usage_error(error)
        raise
    sys.exit(code or 0)


def _usage_error(error: Exception) -> None:
    """Leave with 2 if `error` is the parser's own; it knows how to show itself."""
    show = getattr(error, "show", None)
    if callable(show):
        show()
        sys.exit(getattr(error, "exit_code", 2))
