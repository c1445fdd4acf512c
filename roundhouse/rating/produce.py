"""Answers of several variants to the same questions, asked of this house and kept as they come.

Each answer is a line of the file as soon as it is whole, so a run that was killed goes on where it was. One variant is
asked after the other: two models that do not fit into the memory together are exchanged once, not for each question.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from roundhouse.core.chat import ChatRequest, Message, Role, Sampling
from roundhouse.core.errors import Error, InvalidRequest, StoreError
from roundhouse.experiments.design import Arm
from roundhouse.gateway import Gateway
from roundhouse.rating.answers import Question
from roundhouse.store.locks import locked

__all__ = ["Produced", "produce", "work_off"]

_Item = TypeVar("_Item")

# What joins a question and its context when a variant names no prompt, as `roundhouse ask --context` does.
_PROMPT = "rag_query"
# How each line begins, so that a cut one is known for ours, and no other file is ever shortened.
_BEGIN = b'{"made_by": '


@dataclass(slots=True)
class Produced:
    """How many answers are new, were there, or could not be had; `reasons` of the last by (variant, question).

    `made_by`: all by which one variant differs from another of the same name, by variant; `cut`: for how many of its
    new answers something had to be left out to fit the window.
    """

    new: int = 0
    kept: int = 0
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    made_by: dict[str, dict[str, Any]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)


async def produce(
    gateway: Gateway,
    arms: Sequence[Arm],
    questions: Sequence[Question],
    out: Path,
    *,
    sampling: Sampling,
    at_once: int = 4,
    tell: Callable[[str], None] = lambda text: None,
) -> Produced:
    """Ask what `out` does not have yet. A variant is answered by its own first targets alone, never by a fallback.

    Raises, before anything is asked, `ModelNotFound` and `TemplateError` for a route and a prompt that are not there,
    `InvalidRequest` if `out` holds answers of a variant that was another one, and `InUse` if another process writes it;
    `StoreError` for a disk that takes nothing.
    """
    done = Produced(made_by={arm.name: _made_by(gateway, arm, questions, sampling) for arm in arms})
    try:
        with locked(out, wait=False, what=str(out)):
            kept = _kept(out, done.made_by)
            done.kept = len(kept)
            with out.open("a", encoding="utf-8") as file:

                async def one(arm: Arm, question: Question) -> None:
                    try:
                        told = await _answer(gateway, arm, question, sampling)
                    except Error as error:
                        done.reasons[arm.name, question.id] = str(error)
                        return
                    row = {"made_by": done.made_by[arm.name], **_asked(question), "variant": arm.name, **told}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    file.flush()
                    done.new += 1
                    done.cut[arm.name] = done.cut.get(arm.name, 0) + ("cut" in told)

                for arm in arms:
                    wanted = [question for question in questions if (question.id, arm.name) not in kept]
                    tell(f"{arm.name}: {len(wanted)} of {len(questions)} questions")
                    await work_off(wanted, partial(one, arm), at_once)
                    if cut := done.cut.get(arm.name):
                        tell(f"{arm.name}: {cut} of these were asked about a part of their context, to fit the window")
    except OSError as error:
        said = f"{out} cannot be written: {error.strerror or error}; what it has is kept, run it again"
        raise StoreError(said, path=str(out)) from error
    return done


async def work_off(items: Iterable[_Item], act: Callable[[_Item], Coroutine[Any, Any, None]], at_once: int) -> None:
    """`act` on each, at most `at_once` at a time. Raises the first error by itself; the rest is cancelled then."""
    waiting = iter(items)

    async def one_by_one() -> None:
        for item in waiting:
            await act(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one_by_one())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _answer(gateway: Gateway, arm: Arm, question: Question, sampling: Sampling) -> dict[str, Any]:
    request = ChatRequest(
        tuple(Message(_ROLES[role], text) for role, text in question.messages),
        model=arm.route,
        sampling=Sampling(**arm.settings).over(sampling),
        fallback=False,
    )
    cut: tuple[str, ...] = ()
    if prompt := arm.prompt or (_PROMPT if question.context else ""):
        variables = gateway.catalog.find(prompt).variables
        values = {name: text for name, text in question.values.items() if name in variables}
        asked = gateway.prompted(
            prompt, values, ChatRequest((), model=request.model, sampling=request.sampling, fallback=False)
        )
        request, cut = await gateway.within_window(asked)
    reported = await gateway.generate(request)
    answer, report = reported.answer, reported.report
    return {
        "answer": answer.text,
        "target": report.target,
        "model": report.model,
        "finish_reason": answer.finish_reason,
        **({"cut": list(cut)} if cut else {}),
    }


_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


def _asked(question: Question) -> dict[str, Any]:
    messages = [{"role": role, "content": text} for role, text in question.messages]
    return {"id": question.id, "messages": messages, **({"context": question.context} if question.context else {})}


def _made_by(gateway: Gateway, arm: Arm, questions: Sequence[Question], sampling: Sampling) -> dict[str, Any]:
    """The prompt with its version, so that edited words are another variant."""
    prompt = arm.prompt or (_PROMPT if any(question.context for question in questions) else "")
    version = gateway.catalog.find(prompt).version if prompt else ""
    model = gateway.model_of(gateway.targets_of(arm.route)[0])
    chosen = Sampling(**arm.settings).over(sampling)
    settings = {
        name: value for name in Sampling.__struct_fields__ if (value := getattr(chosen, name)) not in (None, ())
    }
    return {"route": arm.route, "model": model, "prompt": prompt, "version": version, "settings": settings}


def _kept(out: Path, arms: Mapping[str, Mapping[str, Any]]) -> set[tuple[str, str]]:
    """What `out` has already, by question and variant. A last line that was cut by a kill is taken off."""
    data = out.read_bytes()
    kept = set()
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if not line.startswith(_BEGIN[: len(line)]):
            raise _refused(out, number, "no line of `roundhouse rate answer`")
        if not line.endswith(b"\n"):
            with out.open("r+b") as file:
                file.truncate(len(data) - len(line))
            break
        try:
            row = json.loads(line)
            name, made_by, key = row["variant"], row["made_by"], (row["id"], row["variant"])
        except (ValueError, KeyError, TypeError):
            raise _refused(out, number, "no line of `roundhouse rate answer`") from None
        if name in arms and made_by != arms[name]:
            raise _refused(out, number, f'"{name}" was made otherwise: {_changes(made_by, arms[name])}')
        if name in arms:
            kept.add(key)
    return kept


def _changes(made_by: Any, now: Mapping[str, Any]) -> str:
    before = made_by if isinstance(made_by, dict) else {}
    return ", ".join(
        f"{key} {json.dumps(before.get(key))}, now {json.dumps(value)}"
        for key, value in now.items()
        if before.get(key) != value
    )


def _refused(out: Path, number: int, why: str) -> InvalidRequest:
    return InvalidRequest(f"{out}:{number}: {why}; name another file", param="out")
