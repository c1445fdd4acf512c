"""Which parts of a long value go into a prompt. Pure but for the counting, which the caller's backend does.

Of a document whole paragraphs are kept, those that share the question's rarer words first, and told in the document's
own order; of another text as much of its beginning or its end as there is room for.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["Fitted", "fit", "rank", "split", "trim"]

_WORD = re.compile(r"\w+")
_BLANK_LINES = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_LONG_PARAGRAPH_CHARACTERS = 2000
# No tokenizer packs more characters of running text than this into a token on average: what is longer cannot fit,
# and need not be counted to know it.
_MOST_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Fitted:
    """The text that fits, and how many of the document's `total` parts it holds."""

    text: str
    kept: int
    total: int

    @property
    def cut(self) -> bool:
        return self.kept < self.total


def split(text: str) -> list[str]:
    """Paragraphs, parted by blank lines; one of over 2,000 characters is parted at its sentences and lines."""
    parts: list[str] = []
    for paragraph in _BLANK_LINES.split(text):
        stripped = paragraph.strip()
        if len(stripped) > _LONG_PARAGRAPH_CHARACTERS:
            parts += [piece for sentence in _SENTENCE_END.split(stripped) if (piece := sentence.strip())]
        elif stripped:
            parts.append(stripped)
    return parts


def rank(parts: Sequence[str], question: str) -> list[int]:
    """Indices of `parts`, the most relevant first: shared words weighted by their rarity, ties in order.

    The weight is an inverse document frequency, ln(1 + N / n), each shared word counted once (Spärck Jones, "A
    statistical interpretation of term specificity", 1972).
    """
    words = [set(_WORD.findall(part.lower())) for part in parts]
    holders = Counter(word for found in words for word in found)
    wanted = set(_WORD.findall(question.lower()))
    weights = {word: math.log(1 + len(parts) / holders[word]) for word in wanted if holders[word]}
    scores = [sum(weights.get(word, 0.0) for word in wanted & found) for found in words]
    return sorted(range(len(parts)), key=lambda index: (-scores[index], index))


async def fit(text: str, question: str, budget_tokens: int, count: Callable[[str], Awaitable[int]]) -> Fitted:
    """As much of `text` as `count` puts within `budget_tokens`; all of it, unchanged, if it fits.

    `count` tells the tokens of the whole prompt with a given context in it; it is asked about log2(parts) times.
    """
    most_characters = budget_tokens * _MOST_CHARACTERS_PER_TOKEN
    if len(text) <= most_characters and await count(text) <= budget_tokens:
        return Fitted(text, 1, 1)
    parts = split(text)
    order = rank(parts, question)

    def chosen(number: int) -> str:
        return "\n\n".join(parts[index] for index in sorted(order[:number]))

    sizes = accumulate(len(parts[index]) for index in order)
    fits, fails = 0, 1 + sum(size <= most_characters for size in sizes)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if await count(chosen(middle)) <= budget_tokens:
            fits = middle
        else:
            fails = middle
    return Fitted(chosen(fits), fits, len(parts))


async def trim(text: str, budget_tokens: int, count: Callable[[str], Awaitable[int]], *, from_start: bool) -> Fitted:
    """As much of `text` as `count` puts within `budget_tokens`, cut between words; `from_start`: its beginning goes.

    `kept` and `total` are characters.
    """
    most = min(len(text), budget_tokens * _MOST_CHARACTERS_PER_TOKEN)
    if most == len(text) and await count(text) <= budget_tokens:
        return Fitted(text, len(text), len(text))

    def kept(characters: int) -> str:
        whole = text[len(text) - characters :] if from_start else text[:characters]
        if characters == len(text):
            return whole
        parted = whole.split(maxsplit=1) if from_start else whole.rsplit(maxsplit=1)
        return parted[-1 if from_start else 0] if len(parted) == 2 else ""

    fits, fails = 0, most + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if await count(kept(middle)) <= budget_tokens:
            fits = middle
        else:
            fails = middle
    return Fitted(kept(fits), len(kept(fits)), len(text))
