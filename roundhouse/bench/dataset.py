"""What is asked, and what the right answer is: the demo model's held-out questions, or a user's JSONL.

A row of JSONL: `prompt` (text) or `messages`, or `question` with `context`; optional are `answer` or `answers` (right
ones), `id` and `kind`. Other keys are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from roundhouse.core.chat import ChatRequest, Message, Sampling
from roundhouse.core.errors import InvalidRequest
from roundhouse.prompts.builtin import builtin

__all__ = ["DEMO", "Question", "read", "requests"]

DEMO = "demo"
_LINE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """`answers` are all right ones; empty = unknown, so that no quality is told."""

    id: str
    messages: tuple[Message, ...]
    answers: tuple[str, ...] = ()
    kind: str = ""


def read(name: str) -> list[Question]:
    """The questions of the file `name`, or of the built-in set `demo`; `rag_query` joins question and context.

    Raises `InvalidRequest`, which names file and line.
    """
    path = Path(str(files("roundhouse") / "demo" / "heldout.jsonl")) if name == DEMO else Path(name)
    found = []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found.append(_question(line, f"{path}:{number}", str(number)))
    except OSError as error:
        raise InvalidRequest(
            f"the dataset {path} cannot be read: {error.strerror or error}", param="dataset"
        ) from error
    if not found:
        raise InvalidRequest(f"the dataset {path} has no rows", param="dataset")
    return found


def requests(questions: Sequence[Question], sampling: Sampling, model: str = "") -> list[ChatRequest]:
    return [ChatRequest(messages=question.messages, model=model, sampling=sampling) for question in questions]


def _question(line: bytes, place: str, number: str) -> Question:
    if len(line) > _LINE_BYTES:
        raise InvalidRequest(f"{place}: the row is larger than {_LINE_BYTES >> 20} MiB", param="dataset")
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(f"{place}: no JSON: {error}", param="dataset") from error
    if not isinstance(row, dict):
        raise InvalidRequest(f"{place}: a row must be a JSON object", param="dataset")
    answers = row.get("answers", [row["answer"]] if row.get("answer") is not None else [])
    if not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
        raise InvalidRequest(f"{place}: `answers` must be a list of texts", param="dataset")
    messages = _messages(row, place)
    return Question(str(row.get("id", number)), messages, tuple(answers), str(row.get("kind", "")))


def _messages(row: Mapping[str, Any], place: str) -> tuple[Message, ...]:
    match row:
        case {"prompt": str(prompt)} if prompt:
            return (Message("user", prompt),)
        case {"question": str(question), "context": str(context)}:
            prepared = builtin().find("rag_query").prepare({"question": question, "context": context})
            return tuple(prepared.wording("default").messages)
        case {"question": str(question)} if question:
            return (Message("user", question),)
        case {"messages": [_, *_] as told}:
            return tuple(_message(one, place) for one in told)
    raise InvalidRequest(f"{place}: a row needs `prompt`, `question` or `messages`", param="dataset")


def _message(told: Any, place: str) -> Message:
    match told:
        case {"role": "system" | "user" | "assistant" as role, "content": str(content)}:
            return Message(role, content)
    raise InvalidRequest(
        f"{place}: a message needs `role` (system, user or assistant) and `content` (text)", param="dataset"
    )
