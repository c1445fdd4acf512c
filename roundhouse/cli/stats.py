"""`roundhouse stats`: what requests took, of the history that the server keeps."""

from __future__ import annotations

import datetime
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of
from roundhouse.cli.tables import print_table

if TYPE_CHECKING:
    from roundhouse.database import Place
    from roundhouse.history.question import Question
    from roundhouse.history.statistics import Group, Percentiles

__all__ = ["app"]

app = typer.Typer(help="What requests took: percentiles by target, route, prompt, variant and time.")

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)\Z")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

SinceOption = Annotated[str, typer.Option(help="From: 30m, 24h, 7d ago, or a time such as 2026-11-23T14:00 (UTC).")]
UntilOption = Annotated[str, typer.Option(help="Until, in the same forms.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="NAME=VALUE, as target=ollama; repeatable.")]
FileOption = Annotated[Path | None, typer.Option("--file", help="The history; default: that of the configuration.")]


@app.callback(invoke_without_command=True)
def stats(
    context: typer.Context,
    by: Annotated[
        list[str] | None,
        typer.Option(help="target, route, model, prompt, variant, experiment, arm, outcome, day, hour, minute."),
    ] = None,
    since: SinceOption = "24h",
    until: UntilOption = "",
    only: OnlyOption = None,
    file: FileOption = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Counts, tokens and percentiles of the requests that ended since --since; --by may be repeated."""
    if context.invoked_subcommand is not None:
        return
    from roundhouse.history.statistics import statistics

    question = _question(since, until, only, by or ["target"])
    groups = statistics(_place(file, config), question)
    if as_json:
        print_json({
            "since": question.since, "until": question.until, "by": question.by,
            "groups": [{**asdict(group), "names": dict(zip(question.by, group.names, strict=True)),
                        "error_rate": group.error_rate} for group in groups],
        })  # fmt: skip
    elif not groups:
        print("no such request ended in that time; --since looks further back")
    else:
        _print(question.by, groups)


@app.command("export")
def export(
    out: Annotated[str, typer.Argument(help="A file that ends in .csv or .parquet; - = CSV to standard output.")],
    since: SinceOption = "",
    until: UntilOption = "",
    only: OnlyOption = None,
    file: FileOption = None,
    config: ConfigOption = None,
) -> None:
    """One row for each request, with all that is kept of it; without --since, of all times."""
    from roundhouse.history import export as exporting

    question = _question(since, until, only, ())
    if out == "-":
        exporting.print_rows(_place(file, config), question, sys.stdout)
    else:
        count = exporting.export(_place(file, config), question, Path(out))
        print(f"{count} requests in {out}")


def _place(file: Path | None, config: Path | None) -> Place:
    from roundhouse.gateway.keeping import history_place

    return file or history_place(settings_of(config))


def _question(since: str, until: str, only: Sequence[str] | None, by: Sequence[str]) -> Question:
    from roundhouse.history.question import Question

    where = {}
    for one in only or ():
        name, equals, value = one.partition("=")
        if not equals:
            raise typer.BadParameter(f"--only is NAME=VALUE, as target=ollama, not {one}")
        where[name] = value
    return Question(_moment(since, "--since"), _moment(until, "--until"), where, tuple(dict.fromkeys(by)))


def _moment(text: str, option: str) -> float | None:
    """Seconds since 1970."""
    if not text:
        return None
    if found := _AGO.match(text.strip()):
        return time.time() - float(found[1]) * _UNIT_S[found[2]]
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{option}: expected 30m, 24h, 7d or a time as 2026-11-23T14:00, not {text}") from None
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()


def _print(by: Sequence[str], groups: Sequence[Group]) -> None:
    counts = ("requests", "errors", "left", "failovers", "tokens in", "out", "out/s")
    heads = [*by, *counts, "first token ms", "per token ms", "total ms", "queue ms"]
    rows = []
    for group in groups:
        speed = "-" if group.output_tokens_per_s is None else f"{group.output_tokens_per_s:.1f}"
        rate = "" if group.error_rate is None else f" ({group.error_rate * 100:.1f} %)"
        rows.append([
            *(name or "-" for name in group.names), str(group.requests), f"{group.errors}{rate}",
            str(group.clients_left), str(group.failovers), str(group.input_tokens), str(group.output_tokens), speed,
            *(_said(group.metrics[name]) for name in ("first_token", "per_token", "total", "queue")),
        ])  # fmt: skip
    print_table(heads, rows)
    print("times are P50 / P95 / P99; - = too few requests to tell")


def _said(told: Percentiles) -> str:
    return " / ".join("-" if value is None else f"{value * 1000:.3g}" if value < 0.1 else f"{value * 1000:.0f}"
                      for value in (told.p50, told.p95, told.p99))  # fmt: skip
