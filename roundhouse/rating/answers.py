"""Questions, and what several variants answered: from JSONL or CSV, a line at a time, every fault with its place.

A row asks by `messages`, or `prompt`, or `question` with or without `context`; `id` tells questions apart (without it
the text does). It answers either for one variant, by `variant` and `answer`, or for several: JSONL by `answers`, an
object of texts by variant, CSV by a column `answer_NAME` for each. Other keys are left alone.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roundhouse.core.errors import InvalidRequest

__all__ = ["Question", "Rated", "check_variant", "read_answers", "read_questions"]

_LINE_BYTES = 8 << 20
_MOST_VARIANTS = 26
_LONGEST_NAME = 200
_ROLES = ("system", "user", "assistant")
_COLUMN = "answer_"


@dataclass(frozen=True, slots=True)
class Question:
    """`messages` as (role, text); `context` is what the question is about. `values`: the row's texts by key.

    `right`: all right answers, empty = unknown, and for rows that tell what a variant answered.
    """

    id: str
    messages: tuple[tuple[str, str], ...]
    context: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    right: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Rated:
    """A question and the answers to it, by variant."""

    question: Question
    answers: Mapping[str, str]


def read_questions(path: Path) -> list[Question]:
    """Raises `InvalidRequest`, which names file and line."""
    found = [_question(row, place) for place, row in _rows(path)]
    if not found:
        raise InvalidRequest(f"{path} has no rows", param="questions")
    return found


def read_answers(path: Path) -> list[Rated]:
    """All rows of one question together. Raises `InvalidRequest`, which names file and line, for a row that is not
    whole, for two different answers of one variant to one question, and where nothing can be compared.
    """
    questions: dict[str, Question] = {}
    answers: dict[str, dict[str, str]] = {}
    for place, row in _rows(path):
        question = _question(row, place)
        known = questions.setdefault(question.id, question)
        if (known.messages, known.context) != (question.messages, question.context):
            raise InvalidRequest(f'{place}: the id "{question.id}" stood for another question before', param="answers")
        for variant, text in _answers(row, place):
            if answers.setdefault(question.id, {}).setdefault(variant, text) != text:
                said = f'{place}: "{variant}" has answered this question otherwise before'
                raise InvalidRequest(said, param="answers")
    variants = {variant for told in answers.values() for variant in told}
    if len(variants) < 2:
        said = f"{path} has answers of {len(variants)} variants; two at least are compared"
        raise InvalidRequest(said, param="answers")
    if len(variants) > _MOST_VARIANTS:
        said = f"{path} has {len(variants)} variants; is the key `variant` really what it means?"
        raise InvalidRequest(said, param="answers")
    return [Rated(questions[one], told) for one, told in answers.items()]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        if path.suffix.lower() == ".csv":
            yield from _csv_rows(path)
        else:
            yield from _jsonl_rows(path)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror or error}", param="answers") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is no text in UTF-8: {error}", param="answers") from error


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(_LINE_BYTES)
        rows = csv.DictReader(file, strict=True)
        try:
            for row in rows:
                place = f"{path}:{rows.line_num}"
                if None in row or None in row.values():
                    raise InvalidRequest(f"{place}: the row has not as many fields as the header", param="answers")
                yield place, {key: text for key, text in row.items() if text or key == "answer"}
        except csv.Error as error:
            raise InvalidRequest(f"{path}:{rows.line_num}: no CSV: {error}", param="answers") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            if len(line) > _LINE_BYTES:
                raise InvalidRequest(f"{place}: the row is larger than {_LINE_BYTES >> 20} MiB", param="answers")
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidRequest(f"{place}: no JSON: {error}", param="answers") from error
            if not isinstance(row, dict):
                raise InvalidRequest(f"{place}: a row must be a JSON object", param="answers")
            if b"\\ud" in line.lower():
                _check_text(row, place)
            yield place, row


def _check_text(row: Mapping[str, Any], place: str) -> None:
    """Half a pair of surrogates, which JSON can escape, is no text that could be kept or shown."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{place}: half a character is escaped there: {error}", param="answers") from error


def _question(row: Mapping[str, Any], place: str) -> Question:
    context = row.get("context", "")
    if not isinstance(context, str):
        raise InvalidRequest(f"{place}: `context` must be a text", param="answers")
    messages = _messages(row, place)
    named = row.get("id")
    if named is not None and not isinstance(named, str | int):
        raise InvalidRequest(f"{place}: `id` must be a text or a number", param="answers")
    number = str(named) if named not in (None, "") else _number(context, messages)
    values = {key: value for key, value in row.items() if isinstance(value, str) and key != "id"}
    return Question(number, messages, context, values, _right(row, place), values.get("kind", ""))


def _right(row: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """`answer`, or `answers` as a list: as an object, or beside a variant, they are what was answered."""
    match row:
        case {"variant": _} | {"answers": dict()}:
            return ()
        case {"answers": list(told)} if all(isinstance(one, str) for one in told):
            return tuple(told)
        case {"answers": list()}:
            raise InvalidRequest(f"{place}: `answers` must be a list of texts", param="answers")
        case {"answer": str(answer)}:
            return (answer,)
    return ()


def _number(context: str, messages: tuple[tuple[str, str], ...]) -> str:
    return hashlib.sha256(json.dumps([context, messages]).encode()).hexdigest()[:16]


def _messages(row: Mapping[str, Any], place: str) -> tuple[tuple[str, str], ...]:
    match row:
        case {"messages": [_, *_] as told}:
            return tuple(_message(one, place) for one in told)
        case {"prompt": str(text)} | {"question": str(text)} if text.strip():
            return (("user", text),)
    raise InvalidRequest(f"{place}: a row needs `question`, `prompt` or `messages`", param="answers")


def _message(told: Any, place: str) -> tuple[str, str]:
    match told:
        case {"role": str(role), "content": str(content)} if role in _ROLES:
            return role, content
    said = f"{place}: a message needs `role` (system, user or assistant) and `content` (text)"
    raise InvalidRequest(said, param="answers")


def _answers(row: Mapping[str, Any], place: str) -> Iterator[tuple[str, str]]:
    match row:
        case {"variant": str(variant), "answer": str(answer)}:
            found = {variant: answer}
        case {"answers": dict(told)}:
            found = told
        case _:
            found = {key.removeprefix(_COLUMN): value for key, value in row.items() if key.startswith(_COLUMN)}
    if not found:
        said = f"{place}: a row needs `variant` and `answer`, or `answers`, or fields `{_COLUMN}NAME`"
        raise InvalidRequest(said, param="answers")
    for variant, answer in found.items():
        if not isinstance(answer, str):
            raise InvalidRequest(f'{place}: the answer of "{variant}" must be a text', param="answers")
        check_variant(variant, place)
        yield variant, answer


def check_variant(name: str, place: str) -> None:
    """Names are printed to terminals and pages, so what steers those is no part of one. Raises `InvalidRequest`."""
    if not name.strip():
        raise InvalidRequest(f"{place}: a variant has no name", param="answers")
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        said = f"{place}: a variant's name has at most {_LONGEST_NAME} characters, all of which can be shown"
        raise InvalidRequest(f"{said}, not {name[:_LONGEST_NAME]!r}", param="answers")
