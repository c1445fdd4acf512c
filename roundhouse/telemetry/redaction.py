"""What personal and secret looks like in a text, taken out of it before it is written anywhere. Pure.

A rule is a pattern and, where a pattern would take too much, a check of what it found. Every pattern reads a text in
time proportional to its length. Rules read a text as a person does: a wide digit is a digit, any space a space, any
dash a dash, and what is invisible is not there. Taking out too much is the smaller evil; what no pattern can know
(names, addresses) stays, and the documentation says so.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["RULES", "Redaction", "Rule"]

_MOST_CHARACTERS = 20_000
# A card or a telephone number that is cut cannot be recognised, so what stands so near a cut is not shown.
_EDGE = 100


@dataclass(frozen=True, slots=True)
class Rule:
    """What `pattern` finds and `check` confirms; in the text as it is `literal`ly, or as a person reads it."""

    pattern: re.Pattern[str]
    check: Callable[[str], bool] = lambda found: True
    literal: bool = False


def _address(found: str) -> bool:
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return False
    return True


_DIGITS_OF_A_SMALL_IBAN = 10
_NAMED = (
    r"(?:pass(?:word|wd|wort|phrase)?|pwd|kennwort|contrase[n\u00f1]a|secret|token|api[-_ ]?key|access[-_ ]?key"
    r"|credentials?|authorization)"
)
_PREFIX = r"(?:sk|pk|rk|rh|hf|gh[oprsu]|github_pat|glpat|xox[abeoprs]|AKIA|ASIA|AIza)"

# In the order in which they are applied.
RULES: Mapping[str, Rule] = {
    "secret": Rule(
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----)){0,20000}"
            r"(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?"
            r"|\beyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{4,4000}\.?[A-Za-z0-9_-]{0,4000}"
            rf"|\b{_PREFIX}[-_]?[A-Za-z0-9_-]{{12,400}}"
            r"|\b[Bb]earer\s{1,4}[^\s\"',;]{8,4000}"
            rf"|\b{_NAMED}\b[\"']?\s{{0,4}}(?:[:=]|is\b)\s{{0,4}}[\"']?[^\s\"',;]{{1,4000}}"
            r"|(?<=://)[^\s/@:]{0,200}:[^\s/@]{1,200}(?=@)",
            re.ASCII | re.IGNORECASE,
        )
    ),
    "email": Rule(re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")),
    # In small letters it would take ordinary words, but for its digits.
    "iban": Rule(
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b", re.ASCII | re.IGNORECASE),
        lambda found: found == found.upper() or sum(map(str.isdigit, found)) >= _DIGITS_OF_A_SMALL_IBAN,
    ),
    "card": Rule(
        re.compile(r"(?<!\d)(?:\d(?:[ -]?\d){12,18}|\d{4}(?:\.\d{4}){2}\.\d{1,7})(?!\d)", re.ASCII),
    ),
    "ip": Rule(
        re.compile(
            r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"
            r"|(?<![\w.:])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])",
            re.ASCII | re.IGNORECASE,
        ),
        lambda found: _address(found) and found != "::",
    ),
    "phone": Rule(
        re.compile(
            r"(?<![\w.])(?:\+[1-9]|00[1-9]|\(?0[1-9])[\d ()/.-]{5,18}\d(?!\w)"
            r"|(?<![\w.])\(?\d{3}\)?[ .-]{0,2}\d{3}[ .-]\d{4}(?!\w)",
            re.ASCII,
        )
    ),
}


class Redaction:
    """Some of `RULES` by name, and `also`: patterns of one's own, by the name that is written for what they find.

    Raises `KeyError` for an unknown rule, `re.error` for a pattern that is none.
    """

    def __init__(self, rules: tuple[str, ...] = tuple(RULES), also: Mapping[str, str] | None = None) -> None:
        own = {name: Rule(re.compile(pattern), literal=True) for name, pattern in (also or {}).items()}
        self._rules = own | {name: RULES[name] for name in RULES if name in rules}
        if unknown := set(rules) - set(RULES):
            raise KeyError(min(unknown))

    def __call__(self, text: str) -> str:
        """`text` with `[name of the rule]` in place of all that is found."""
        for name, rule in self._rules.items():
            text = _without(text, name, rule)
        return text

    def shown(self, text: str) -> str:
        """As a call, and at most about 20,000 characters, with a word about what is left out."""
        if len(text) <= _MOST_CHARACTERS:
            return self(text)
        head = text[:_MOST_CHARACTERS].rsplit(None, 1)[0]
        return f"{self(head)[:-_EDGE]} [cut, of {len(text)} characters]"


def _without(text: str, name: str, rule: Rule) -> str:
    read, places = (text, None) if rule.literal or text.isascii() else _as_read(text)
    parts, kept = [], 0
    for found in rule.pattern.finditer(read):
        if not (found[0] and rule.check(found[0])):
            continue
        begin, end = found.span() if places is None else (places[found.start()], places[found.end() - 1] + 1)
        if begin >= kept:
            parts += [text[kept:begin], f"[{name}]"]
            kept = end
    return "".join([*parts, text[kept:]]) if parts else text


def _as_read(text: str) -> tuple[str, Sequence[int]]:
    """What a person reads, and for each of its characters where in `text` it stands."""
    read: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        plain = char if char.isascii() else _plain(char)
        read.append(plain)
        places += [place] * len(plain)
    return "".join(read), places


@lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    kind = unicodedata.category(char)
    if kind == "Cf":  # invisible: joiners, soft hyphens, marks of direction
        return ""
    if kind == "Nd":
        return str(unicodedata.decimal(char))
    return {"Zs": " ", "Pd": "-"}.get(kind) or unicodedata.normalize("NFKC", char)
