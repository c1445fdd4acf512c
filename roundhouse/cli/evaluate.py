"""`roundhouse evaluate`: variants against each other over a dataset, before anybody is served by them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from roundhouse.cli.arms import arms_of, questions_of
from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of, tell
from roundhouse.core.chat import Sampling

if TYPE_CHECKING:
    from roundhouse.evaluate.run import Outcome

__all__ = ["evaluate"]


def evaluate(
    answers: Annotated[
        Path,
        typer.Argument(help="JSONL (or CSV, to read alone) with the answers; the report is written beside it."),
    ],
    dataset: Annotated[str, typer.Option(help="Questions with right answers (JSONL, CSV), or `demo`.")] = "demo",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME,route=R,prompt=P,temperature=0.2,...: answers that ANSWERS does not have yet are asked for. "
            "Repeatable; the first is the control."
        ),
    ] = None,
    experiment: Annotated[str, typer.Option(help="Take the arms of this experiment of the configuration.")] = "",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="exact_match, f1, rouge_l, bleu, chrf, json, refusal, characters, or module:function of yours. "
            "Repeatable; the first one decides. Default: what the questions allow, exact_match first."
        ),
    ] = None,
    judge: Annotated[str, typer.Option(help="A route or target that compares answers in pairs, both ways round.")] = "",
    judge_prompt: Annotated[str, typer.Option(help="The prompt that it is asked with.")] = "judge_pair",
    count: Annotated[int | None, typer.Option(min=2, help="Only so many questions, spread over the dataset.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    at_once: Annotated[int, typer.Option(min=1, help="Questions under way at the same time.")] = 4,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals and of a verdict.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Have variants answer the same questions, and say which is better, by how much, and how sure that is.

    ANSWERS keeps every answer as it comes, so a run that was stopped goes on. Without variants the answers that it has
    are evaluated. Exit code 1 if an answer could not be had.
    """
    from roundhouse.evaluate.run import Plan, run
    from roundhouse.evaluate.table import lines

    if answers.suffix.lower() not in (".jsonl", ".csv"):
        raise typer.BadParameter(f"{answers} is neither .jsonl nor .csv; the report is named after it")
    settings = settings_of(config)
    arms = arms_of(settings, variant or (), experiment) if variant or experiment else []
    sampling = Sampling(max_tokens=max_tokens)
    if any(":" in name for name in metric or ()):
        # A scorer of one's own lies beside the questions; a console script does not look there by itself.
        sys.path.insert(0, "")
    plan = Plan(dataset, tuple(metric or ()), judge, judge_prompt, sampling, at_once, confidence, seed)
    done = asyncio.run(run(settings, answers, arms, questions_of(dataset, count), plan, tell))
    report = _report(done, answers)
    if as_json:
        print_json(done.evaluation)
    else:
        print("\n".join([*lines(done.evaluation), f"report: {report}"]))
    if done.failed:
        raise typer.Exit(1)


def _report(done: Outcome, answers: Path) -> Path:
    """Write what was found beside the answers, for people and for programs; gives the file for people."""
    from roundhouse.core.files import write_atomically
    from roundhouse.evaluate.page import page

    told, written = done.evaluation, answers.with_suffix(".html")
    write_atomically(written, page(told, done.rated).encode())
    write_atomically(answers.with_suffix(".evaluation.json"), msgspec.json.format(msgspec.json.encode(told)) + b"\n")
    return written
