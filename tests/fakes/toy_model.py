"""A language model of a few lines: deterministic, with words for tokens, for fake backends that keep their promises."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

__all__ = ["Asked", "ToyModel", "tokens_of"]

_WORDS = "the lighthouse of Varo was built in stone by people who came from far süden and 東京 with old maps".split()


def tokens_of(text: str) -> list[str]:
    """Words with the space before them, and single signs."""
    return re.findall(r"\s?\w+|\s?[^\w\s]|\s", text)


@dataclass(frozen=True)
class Asked:
    """`prefix`: the answer's beginning, to be extended. `value`: what a schema or a tool wants, as JSON."""

    prompt: str
    prefix: str = ""
    max_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    stop: Sequence[str] = ()
    value: str = ""
    endless: bool = False


class ToyModel:
    """`window`: tokens of prompt and answer together."""

    def __init__(self, window: int = 512) -> None:
        self.window = window

    def tokens(self, asked: Asked) -> Iterator[tuple[str, str | None]]:
        """Each token, the last with its finish reason."""
        limit = asked.max_tokens if asked.max_tokens is not None and asked.max_tokens >= 0 else self.window
        said, count = "", 0
        for token in self._raw(asked):
            stop = next((place for word in asked.stop if (place := (said + token).find(word)) >= 0), None)
            if stop is not None:
                yield token[: max(0, stop - len(said))], "stop"
                return
            said, count = said + token, count + 1
            if count >= limit:
                yield token, "length"
                return
            yield token, None
        yield "", "stop"

    def _raw(self, asked: Asked) -> Iterator[str]:
        if asked.value:
            yield from tokens_of(asked.value)
            return
        salt = f"{asked.seed} {asked.temperature}" if asked.temperature else ""
        random = Random(zlib.crc32((asked.prompt + salt).encode()))
        answer = "".join(" " + random.choice(_WORDS) for _ in range(12)).strip() + "."
        if asked.prefix and not answer.startswith(asked.prefix):
            answer = asked.prefix + " and so on."
        yield from tokens_of(answer[len(asked.prefix) :])
        while asked.endless:
            yield " " + random.choice(_WORDS)

    def vector(self, text: str) -> list[float]:
        random = Random(zlib.crc32(text.encode()))
        return [random.uniform(-1, 1) for _ in range(8)]


def instance_of(schema: Mapping[str, Any]) -> Any:
    """The smallest value that a schema of objects, texts and numbers allows."""
    match schema.get("type"):
        case "string":
            return "Ann"
        case "integer" | "number":
            return 7
        case _:
            return {name: instance_of(part) for name, part in schema.get("properties", {}).items()}


def json_of(schema: Mapping[str, Any]) -> str:
    return json.dumps(instance_of(schema))
