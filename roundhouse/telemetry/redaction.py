"""What personal and secret looks like in a text, taken out of it before it is written anywhere. Pure.

A rule is a pattern and, where a pattern would take too much, a check of what it found. Every pattern reads a text in
time proportional to its length. Taking out too much is the smaller evil; what no pattern can know (names, addresses)
stays, and the documentation says so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["RULES", "Redaction", "Rule"]

_MOST_CHARACTERS = 20_000
# A card or a telephone number that is cut cannot be recognised, so what stands so near a cut is not shown.
_EDGE = 100


@dataclass(frozen=True, slots=True)
class Rule:
    """What `pattern` finds and `check` confirms."""

    pattern: re.Pattern[str]
    check: Callable[[str], bool] = lambda found: True


def _address(found: str) -> bool:
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return False
    return True


_NAMED = r"(?:pass(?:word|wd|phrase)?|secret|token|api[-_ ]?key|access[-_ ]?key|credentials?|authorization)"
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
    "iban": Rule(re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b", re.ASCII)),
    "card": Rule(re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)", re.ASCII)),
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
        own = {name: Rule(re.compile(pattern)) for name, pattern in (also or {}).items()}
        self._rules = own | {name: RULES[name] for name in RULES if name in rules}
        if unknown := set(rules) - set(RULES):
            raise KeyError(min(unknown))

    def __call__(self, text: str) -> str:
        """`text` with `[name of the rule]` in place of all that is found."""
        for name, rule in self._rules.items():
            text = rule.pattern.sub(lambda found, name=name, rule=rule: _replaced(found, name, rule), text)  # type: ignore[misc]
        return text

    def shown(self, text: str) -> str:
        """As a call, and at most about 20,000 characters, with a word about what is left out."""
        if len(text) <= _MOST_CHARACTERS:
            return self(text)
        head = text[:_MOST_CHARACTERS].rsplit(None, 1)[0]
        return f"{self(head)[:-_EDGE]} [cut, of {len(text)} characters]"


def _replaced(found: re.Match[str], name: str, rule: Rule) -> str:
    return f"[{name}]" if found[0] and rule.check(found[0]) else found[0]
