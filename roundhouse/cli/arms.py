"""What a command compares, and over which questions, as its options say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from roundhouse.core.chat import Sampling
from roundhouse.core.errors import InvalidRequest
from roundhouse.experiments.design import Arm
from roundhouse.prompts.variables import nearest

if TYPE_CHECKING:
    from roundhouse.config import Settings
    from roundhouse.rating.answers import Question

__all__ = ["arms_of", "questions_of"]


def arms_of(settings: Settings, variants: Sequence[str], experiment: str) -> list[Arm]:
    """By `--variant` or `--experiment`, one of the two."""
    if bool(variants) == bool(experiment):
        raise typer.BadParameter("give --variant twice at least, or --experiment")
    arms = _of_experiment(settings, experiment) if experiment else [_arm(one) for one in variants]
    if len(arms) < 2 or len({arm.name for arm in arms}) < len(arms):
        raise typer.BadParameter("two variants at least are compared, and their names differ")
    return arms


def questions_of(dataset: str, count: int | None = None) -> list[Question]:
    """Of a file or the built-in set `demo`; only `count` of them, spread over all. Raises `InvalidRequest`."""
    from roundhouse.rating.answers import read_questions

    path = Path(str(files("roundhouse") / "demo" / "heldout.jsonl")) if dataset == "demo" else Path(dataset)
    questions = read_questions(path)
    if count is not None and count < len(questions):
        return [questions[number * len(questions) // count] for number in range(count)]
    return questions


def _of_experiment(settings: Settings, name: str) -> list[Arm]:
    from roundhouse.gateway.labels import current_catalog
    from roundhouse.gateway.trials import designs_of

    designs = designs_of(settings, current_catalog(settings))
    if name not in designs:
        raise InvalidRequest(f'there is no experiment "{name}"{nearest(name, designs)}', param="experiment")
    design = designs[name]
    return [replace(arm, prompt=arm.prompt or design.prompt, route=arm.route or design.route) for arm in design.arms]


def _arm(given: str) -> Arm:
    """Of NAME,key=value,...: `route`, `prompt`, or a setting that is a number."""
    name, *parts = given.split(",")
    numbers = [name for name in Sampling.__struct_fields__ if name != "stop"]
    told: dict[str, str] = {}
    settings: dict[str, float] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key not in ("route", "prompt", *numbers):
            raise typer.BadParameter(f"--variant {given}: {part} is none of route=, prompt=, {'=, '.join(numbers)}=")
        if key in ("route", "prompt"):
            told[key] = value
            continue
        try:
            settings[key] = float(value) if "." in value else int(value)
        except ValueError:
            raise typer.BadParameter(f"--variant {given}: {key} is a number, not {value}") from None
    if not name.strip():
        raise typer.BadParameter(f"--variant {given}: it begins with its name")
    return Arm(name, prompt=told.get("prompt", ""), route=told.get("route", ""), settings=settings)
