"""The `roundhouse` command: its groups, and how an error ends it.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import math
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Annotated, Any

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
    _write_whatever_comes()
    state: dict[str, bool] = {}
    try:
        code = _command()(standalone_mode=False, obj=state)
        sys.stdout.flush()  # what cannot be written is told here, not by the interpreter as it ends
    except Error as error:
        if state.get("debug"):
            raise
        for fault in getattr(error, "faults", ()) or (error,):  # of a configuration, all at once
            print(f"roundhouse: {fault}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except SystemExit as left:  # the parser ends with 1 when the reader of our output has left
        sys.exit(_reader_left() if isinstance(left.__context__, BrokenPipeError) else left.code)
    except OSError as error:
        if state.get("debug"):
            raise
        sys.exit(_failed(error))
    except typer.Exit as left:
        sys.exit(left.exit_code)
    except Exception as error:
        _usage_error(error)
        raise
    sys.exit(code or 0)


def _write_whatever_comes() -> None:
    """A terminal that lacks a character, a file name that is no text and a closed output are no reasons to fail."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it is open until the end
    elif isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError):  # of an output that was exchanged under Python: it stays as it is
            sys.stdout.reconfigure(errors="backslashreplace")


def _command() -> Any:
    """The whole tree of commands, none of which takes nan or inf for a number: no bound would hold it."""
    command = typer.main.get_command(app)
    for one in _tree(command):
        for option in one.params:
            if option.type.name.startswith("float"):
                option.callback = _finite
    return command


def _tree(command: Any) -> Iterator[Any]:
    yield command
    for one in getattr(command, "commands", {}).values():
        yield from _tree(one)


def _finite(context: typer.Context, option: Any, value: Any) -> Any:
    for number in value if isinstance(value, (list, tuple)) else (value,):
        if number is not None and not math.isfinite(number):
            raise typer.BadParameter(f"{number} is no finite number", ctx=context, param=option)
    return value


def _reader_left() -> int:
    """The exit code of whoever writes to a reader who has left, as `head` does; nothing more is written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _failed(error: OSError) -> int:
    """The exit code; says what the system refused, such as a full disk."""
    if error.errno == errno.EPIPE:
        return _reader_left()
    where = f"{error.filename}: " if error.filename else ""
    print(f"roundhouse: {where}{error.strerror or error}; `roundhouse --debug` shows where", file=sys.stderr)
    if error.errno == errno.ENOSPC:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left over cannot be written either
    return 1


def _usage_error(error: Exception) -> None:
    """Leave with 2 if `error` is the parser's own; it knows how to show itself."""
    show = getattr(error, "show", None)
    if callable(show):
        show()
        sys.exit(getattr(error, "exit_code", 2))
