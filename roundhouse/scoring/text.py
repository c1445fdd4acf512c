"""Measures of one answer, from its text and the right ones.

Exact match and F1 as SQuAD's evaluation has them: lower case, no punctuation, no articles, single spaces; the best
over all right answers. ROUGE-L is the F1 of the longest common subsequence of words (Lin 2004), without stemming.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from roundhouse.core.errors import InvalidRequest

__all__ = ["exact_match", "f1", "is_json", "is_refusal", "rouge_l"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FENCED = re.compile(r"```[\w-]*[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)
# How models of the supported families say no, in English; at the beginning, for later it may be part of an answer.
_CANNOT = r"(can't|cannot|can not|won't|will not|unable to|not able to)"
_REFUSAL = re.compile(
    rf"(i'm |i am )?(very |truly |really )?(sorry|afraid)\b.{{0,40}}\b({_CANNOT}|don't|do not)"
    rf"|(unfortunately,? |sorry,? |as an ai\b.{{0,60}}?)?i( am|'m)? {_CANNOT}"
    r" (answer|assist|help|provide|comply|fulfil|do that|discuss|determine|create|generate|write|share)\b"
    r"|i (don't|do not) have (enough|sufficient|any|the) (information|context|knowledge|details)"
    r"|(the|this) (context|document|text|passage) (does not|doesn't) (contain|provide|include|mention|say)"
)
_BEGINNING = 200


def exact_match(text: str, answers: Sequence[str]) -> float:
    return float(any(_normalised(text) == _normalised(answer) for answer in answers))


def f1(text: str, answers: Sequence[str]) -> float:
    return max((_overlap(_normalised(text).split(), _normalised(one).split()) for one in answers), default=0.0)


def rouge_l(text: str, answers: Sequence[str]) -> float:
    words = _normalised(text).split()
    return max((_lcs_f1(words, _normalised(answer).split()) for answer in answers), default=0.0)


def is_json(text: str) -> bool:
    """An object or a list, alone or in one fenced block; nothing before or after it."""
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    try:
        found = json.loads(fenced[1] if fenced else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict | list)


def fits(text: str, schema: Mapping[str, Any] | None) -> bool:
    """Whether it is JSON alone, and of this JSON Schema if there is one that asks for something.

    Raises `InvalidRequest` without the package jsonschema-rs, and for a schema that is none. A schema comes from a
    client: nothing is fetched for it, and its patterns are matched in linear time.
    """
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    if not schema:
        return isinstance(found, dict | list)
    try:
        from jsonschema_rs import RegexOptions, validator_for
    except ImportError as error:
        said = 'the format by a schema needs jsonschema-rs: pip install "roundhouse[format]"'
        raise InvalidRequest(said, param="metric") from error
    try:
        return validator_for(dict(schema), pattern_options=RegexOptions(), offline=True).is_valid(found)
    except ValueError as error:
        raise InvalidRequest(f"the schema of a request is none: {error}", param="json_schema") from error


def is_refusal(text: str) -> bool:
    """Whether it begins as models say that they will not or cannot answer; by phrases, so it can be wrong."""
    said = " ".join(text[:_BEGINNING].lower().replace("\u2019", "'").split()).lstrip("\"'*_# ")
    return _REFUSAL.match(said) is not None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _normalised(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _overlap(words: Sequence[str], right: Sequence[str]) -> float:
    if not words or not right:
        return float(list(words) == list(right))
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right))


def _lcs_f1(words: Sequence[str], right: Sequence[str]) -> float:
    if not words or not right:
        return float(list(words) == list(right))
    row = [0] * (len(right) + 1)
    for word in words:
        corner = 0
        for place, other in enumerate(right, 1):
            corner, row[place] = row[place], corner + 1 if word == other else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(words) + len(right))
