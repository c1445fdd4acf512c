"""Special tokens inside values: broken up, so that what a user wrote can open no role and end no turn.

A tokenizer looks for its special tokens in the whole text before it reads anything else, so a space inside one makes it
ordinary text; unlike an invisible character, no normaliser drops it. Only what touches a value is broken up: the
template's own words are its author's.

Sources: `added_tokens` in tokenizer.json of mistralai/Mistral-7B-Instruct-v0.3, meta-llama/Llama-3.1-8B-Instruct,
microsoft/Phi-3-mini-4k-instruct, google/gemma-2-9b-it and Qwen/Qwen2.5-7B-Instruct.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from roundhouse.prompts.template import Span

__all__ = ["Plain", "neutralised"]

# All of the form <|name|>, also those that a fine-tune has added.
_PIPED = r"<\|[^<>|\s]{1,64}\|>"
_SENTENCEPIECE = r"</?s>|<unk>|<pad>"
_BY_FAMILY = {
    "llama3": _PIPED,
    "phi3": rf"{_PIPED}|{_SENTENCEPIECE}",
    "gemma2": r"<(?:bos|eos|pad|unk|mask|2mass|start_of_turn|end_of_turn|unused\d{1,3})>|\[@BOS@\]",
    "qwen2.5": rf"{_PIPED}|</?tool_call>|</?think>",
    "mistral": rf"{_SENTENCEPIECE}|<</?SYS>>|\[/?(?:[A-Z][A-Z_]{{1,30}}|control_\d{{1,4}})\]",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _BY_FAMILY.items()}
# A model of no known family: every form that a family uses, and those with full-width bars.
_ANY = re.compile("|".join([*_BY_FAMILY.values(), r"<｜[^<>｜\s]{1,64}｜>"]))


@dataclass(frozen=True, slots=True)
class Plain:
    """Spans in which no value opens a role; `broken` names the variables in which a special token was broken up."""

    spans: tuple[Span, ...]
    broken: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


def neutralised(spans: Sequence[Span], family: str) -> Plain:
    """`spans` for a model of `family`: a space in every special token that touches a value, also one that only arises
    where a value meets its neighbour. All else is left as it is.
    """
    pattern = _PATTERNS.get(family, _ANY)
    text = "".join(span.text for span in spans)
    # Every special token begins with one of these, and most values have neither.
    if ("<" not in text and "[" not in text) or pattern.search(text) is None:
        return Plain(tuple(spans))
    starts, at = [], 0
    for span in spans:
        starts.append(at)
        at += len(span.text)
    cuts: dict[int, list[int]] = {}
    position, place = 0, 0
    while found := pattern.search(text, position):
        position = found.start() + 1
        while place + 1 < len(spans) and starts[place + 1] <= found.start():
            place += 1
        for index in range(place, len(spans)):
            if starts[index] >= found.end():
                break
            if spans[index].variable and spans[index].text and starts[index] + len(spans[index].text) > found.start():
                position = max(found.start() + 1, starts[index])
                cuts.setdefault(index, []).append(position - starts[index])
                break
    return Plain(
        tuple(_spaced(span, cuts[index]) if index in cuts else span for index, span in enumerate(spans)),
        tuple(dict.fromkeys(spans[index].variable for index in sorted(cuts))),
    )


def _spaced(span: Span, cuts: Sequence[int]) -> Span:
    edges = [0, *cuts, len(span.text)]
    return replace(span, text=" ".join(span.text[a:b] for a, b in pairwise(edges)))
