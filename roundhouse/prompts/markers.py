"""Special tokens inside values: broken up, so that what a user wrote can open no role and end no turn.

A tokenizer looks for its special tokens in the whole text before it reads anything else, so a space inside one makes it
ordinary text; unlike an invisible character, no normaliser drops it. Only what touches a value is broken up: the
template's own words are its author's.

What counts as one: tokens of the form that most fine-tunes add, whatever model they began from (ChatML on Mistral);
those of the family; and those in the model's own chat template, where its backend tells it. A look-alike counts as
what a normaliser (NFKC, or one that drops invisible characters) would make of it.

Sources: `added_tokens` in tokenizer.json of mistralai/Mistral-7B-Instruct-v0.3, meta-llama/Llama-3.1-8B-Instruct,
microsoft/Phi-3-mini-4k-instruct, google/gemma-2-9b-it and Qwen/Qwen2.5-7B-Instruct; `SpecialTokens` in mistral_common;
"Gemma 4 prompt formatting", ai.google.dev.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from roundhouse.prompts.template import Span

__all__ = ["Plain", "neutralised", "pattern_of", "tokens_in"]

# What follows the bracket that every special token begins with, "<" or "[", so that nothing is tried elsewhere.
# <|name|> (ChatML, Llama 3, Phi, Qwen), <|name> and <name|> (Gemma 4), and with full-width bars (DeepSeek).
_COMMON = r"\|[^<>|\s]{1,64}\|?>|[A-Za-z_]{1,64}\|>|｜[^<>｜\s]{1,64}｜>"
_SENTENCEPIECE = r"/?s>|unk>|pad>"
_GEMMA = r"(?:bos|eos|pad|unk|mask|2mass|(?:start|end)_of_(?:turn|image)|image_soft_token|unused\d{1,4})>"
# By name and not by form: [CUSTOMER_ID] is a column in the SQL of some.
_MISTRAL = (
    "/?(?:AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT|SYSTEM_PROMPT|MODEL_SETTINGS|INST|THINK|ARGS|CALL_ID|"
    r"IMG_BREAK|IMG_END|IMG|BEGIN_AUDIO|AUDIO|TRANSCRIBE|PREFIX|MIDDLE|SUFFIX|control_\d{1,4})\]"
)
_BY_FAMILY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "llama3": ((), ()),
    "phi3": ((_SENTENCEPIECE,), ()),
    "gemma2": ((_GEMMA,), (r"@BOS@\]",)),
    "qwen2.5": ((r"/?(?:tool_call|tool_response|think)>",), ()),
    "mistral": ((_SENTENCEPIECE, r"</?SYS>>|SPECIAL_\d{1,4}>"), (_MISTRAL,)),
}
# A model of no known family: every form that a family uses, and what BERT's heirs and GLM have.
_ANY = (
    (*(form for angled, _ in _BY_FAMILY.values() for form in angled), "[se]op>"),
    (*(form for _, squared in _BY_FAMILY.values() for form in squared), r"g?MASK\]|CLS\]|SEP\]"),
)
_IN_TEMPLATE = re.compile(r"<[^<>\s{}'\"=%()]{1,64}>|\[/?[A-Z_]{2,32}\]|\[g?MASK\]")
_MOST_OWN = 256
_OPENING, _CLOSING = "<\\[＜﹤［﹇", ">\\]＞﹥］﹈"
_SHAPED = re.compile(rf"[{_OPENING}][{_OPENING}]?[^\s{_OPENING}{_CLOSING}]{{1,80}}[{_CLOSING}]{{1,2}}")
_OPENER = re.compile(f"[{_OPENING}]")
_VARIES = re.compile(r"[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_PRINTED = re.compile(r"[\t\n\r -~]*\Z")


@dataclass(frozen=True, slots=True)
class Plain:
    """Spans in which no value opens a role; `broken` names the variables in which a special token was broken up."""

    spans: tuple[Span, ...]
    broken: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


@lru_cache(maxsize=256)
def pattern_of(family: str, own: frozenset[str] = frozenset()) -> re.Pattern[str]:
    """What a special token looks like to a model of `family`, whose `own` tokens are those besides."""
    angled, squared = _BY_FAMILY.get(family, _ANY)
    angled = (_COMMON, *angled, *(re.escape(token[1:]) for token in sorted(own) if token[0] == "<"))
    squared = (*squared, *(re.escape(token[1:]) for token in sorted(own) if token[0] == "["))
    return re.compile(f"<(?:{'|'.join(angled)})" + (rf"|\[(?:{'|'.join(squared)})" if squared else ""))


def tokens_in(chat_template: str) -> frozenset[str]:
    """What a model's own chat template, Jinja or Go, writes in the form of a special token."""
    return frozenset(sorted(set(_IN_TEMPLATE.findall(chat_template)))[:_MOST_OWN])


def neutralised(spans: Sequence[Span], family: str, own: frozenset[str] = frozenset()) -> Plain:
    """`spans` for a model of `family`: a space in every special token that touches a value, also one that only arises
    where a value meets its neighbour. All else is left as it is.
    """
    text = "".join(span.text for span in spans)
    if not _may_hold_tokens(text):
        return Plain(tuple(spans))
    edges = [0]
    for span in spans:
        edges.append(edges[-1] + len(span.text))
    cuts: dict[int, list[int]] = {}
    broken_at = 0
    for start, end in _found(text, pattern_of(family, own)):
        index = _first_value(spans, edges, start, end)
        if index is not None and not start < broken_at < end:
            broken_at = max(start + 1, edges[index])
            cuts.setdefault(index, []).append(broken_at - edges[index])
    return Plain(
        tuple(_spaced(span, cuts[index]) if index in cuts else span for index, span in enumerate(spans)),
        tuple(dict.fromkeys(spans[index].variable for index in sorted(cuts))),
    )


def _may_hold_tokens(text: str) -> bool:
    """Every special token begins with one of two characters, and most texts have neither."""
    return "<" in text or "[" in text or (not text.isascii() and _OPENER.search(text) is not None)


def _found(text: str, pattern: re.Pattern[str]) -> list[tuple[int, int]]:
    """Where special tokens stand in `text`, in order; they may overlap."""
    found: set[tuple[int, int]] = set()
    position = 0
    while token := pattern.search(text, position):
        found.add(token.span())
        position = token.start() + 1
    if not _PRINTED.match(text):
        found.update(_look_alikes(text, pattern))
    return sorted(found)


def _look_alikes(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where `text` has what a normaliser would make a special token of."""
    for shaped in _SHAPED.finditer(text):
        given = shaped[0]
        if given.isprintable() and unicodedata.is_normalized("NFKC", given) and not _VARIES.search(given):
            continue
        pieces = [_normal(character) for character in given]
        read = "".join(pieces)
        if pattern.search(read):
            places = [at for at, piece in enumerate(pieces, shaped.start()) for _ in piece]
            for token in pattern.finditer(read):
                yield places[token.start()], places[token.end() - 1] + 1


@lru_cache(maxsize=4096)
def _normal(character: str) -> str:
    """By NFKC, and nothing where it is not seen: format and control characters, and those that vary another."""
    if unicodedata.category(character) in ("Cf", "Cc") or _VARIES.match(character):
        return ""
    return unicodedata.normalize("NFKC", character)


def _first_value(spans: Sequence[Span], edges: Sequence[int], start: int, end: int) -> int | None:
    """The first value of which something stands between `start` and `end`."""
    for index in range(bisect_right(edges, start) - 1, len(spans)):
        if edges[index] >= end:
            break
        if spans[index].variable and edges[index + 1] > max(start, edges[index]):
            return index
    return None


def _spaced(span: Span, cuts: Sequence[int]) -> Span:
    edges = [0, *cuts, len(span.text)]
    return replace(span, text=" ".join(span.text[a:b] for a, b in pairwise(edges)))
