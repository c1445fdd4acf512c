"""A model judges pairs of answers: each pair twice, with the places exchanged, for models favour a place.

Judgements are lines of a file as soon as they are made, so that a run that was killed goes on where it was. A reply
without a verdict is kept and counted; it is never a tie.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.core.errors import Error, InvalidRequest, StoreError
from roundhouse.evaluate.evaluation import Values
from roundhouse.gateway import Gateway
from roundhouse.rating.answers import Rated
from roundhouse.rating.produce import work_off
from roundhouse.store.locks import locked

__all__ = ["METRIC", "PROMPT", "Judged", "judge", "verdict"]

# The share of a variant's answers that are preferred to the control's; a tie is half.
METRIC = "judge"
PROMPT = "judge_pair"
_VERDICT = re.compile(r"verdict\W{0,6}(1|2|equal|tie)\b", re.IGNORECASE)
_POINTS = {"1": 0.0, "2": 1.0, "equal": 0.5, "tie": 0.5}
_MOST_TOKENS = 400


@dataclass(slots=True)
class Judged:
    """By (question, variant): the points of the variant against the control in both orders, None = no verdict.

    `reasons`: of the judgements that could not be had.
    """

    points: dict[tuple[str, str], dict[bool, float | None]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def values(self, common: Sequence[Rated], variants: Sequence[str]) -> Values:
        """Of the questions with a verdict in both orders for every variant; the control stands at one half."""
        found: dict[str, list[float]] = {name: [] for name in variants}
        rows = []
        for row, one in enumerate(common):
            scores = [self._score(one.question.id, name) for name in variants[1:]]
            if None in scores:
                continue
            rows.append(row)
            for name, score in zip(variants, [0.5, *scores], strict=True):
                found[name].append(score or 0.0)
        return Values(rows, found)

    def notes(self) -> Iterator[str]:
        """How far the judge can be trusted."""
        orders = [both for both in self.points.values() if None not in both.values() and len(both) == 2]
        given = [one for both in self.points.values() for one in both.values()]
        failed = sum(one is None for one in given)
        if failed:
            yield f"judge: {failed} of {len(given)} replies had no verdict; their questions are left out of `{METRIC}`"
        if self.reasons:
            yield f"judge: {len(self.reasons)} judgements could not be had, the last: {self.reasons[-1]}"
        if orders:
            same = sum(both[False] == both[True] for both in orders) / len(orders)
            second = sum((both[False] or 0.0) + 1 - (both[True] or 0.0) for both in orders) / (2 * len(orders))
            yield f"judge: the same verdict with the places exchanged in {same:.0%}; {second:.0%} for the second place"

    def _score(self, question: str, name: str) -> float | None:
        both = self.points.get((question, name), {})
        if len(both) < 2 or None in both.values():
            return None
        return sum(one or 0.0 for one in both.values()) / 2


def verdict(text: str) -> float | None:
    """Points of the second answer: 1, 0 or a half; None if the text has no verdict. The last one counts."""
    found = _VERDICT.findall(text)
    return _POINTS[found[-1].lower()] if found else None


async def judge(
    gateway: Gateway,
    route: str,
    common: Sequence[Rated],
    variants: Sequence[str],
    out: Path,
    *,
    prompt: str = PROMPT,
    at_once: int = 4,
    tell: Callable[[str], None] = lambda text: None,
) -> Judged:
    """Ask what `out` does not have yet. Raises `InvalidRequest` if `out` is another judge's, `InUse`, `StoreError`."""
    made_by = {"judge": route, "prompt": f"{prompt}@{gateway.catalog.find(prompt).version}", "control": variants[0]}
    judged = Judged()
    with _kept(out, made_by) as (file, kept):
        wanted = []
        for one in common:
            for name in variants[1:]:
                for swapped in (False, True):
                    key = _key(one, variants[0], name, swapped)
                    if key in kept:
                        judged.points.setdefault((one.question.id, name), {})[swapped] = kept[key]
                    else:
                        wanted.append((one, name, swapped, key))
        if wanted:
            tell(f"judge {route}: {len(wanted)} judgements")

        async def one_pair(pair: tuple[Rated, str, bool, str]) -> None:
            one, name, swapped, key = pair
            try:
                text = await _asked(gateway, route, prompt, one, (variants[0], name), swapped)
            except Error as error:
                judged.reasons.append(str(error))
                return
            points = verdict(text)
            if swapped and points is not None:
                points = 1 - points
            row = {"judged_by": made_by, "key": key, "points": points, "said": text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            judged.points.setdefault((one.question.id, name), {})[swapped] = points

        await work_off(wanted, one_pair, at_once)
    return judged


async def _asked(gateway: Gateway, route: str, prompt: str, one: Rated, pair: tuple[str, str], swapped: bool) -> str:
    first, second = reversed(pair) if swapped else pair
    told = {
        "question": "\n\n".join(text for _, text in one.question.messages),
        "context": one.question.context,
        "reference": one.question.right[0] if one.question.right else "",
        "first": one.answers[first],
        "second": one.answers[second],
    }
    values = {name: text for name, text in told.items() if name in gateway.catalog.find(prompt).variables}
    request = ChatRequest((), model=route, sampling=Sampling(max_tokens=_MOST_TOKENS), fallback=False)
    request, _ = await gateway.within_window(gateway.prompted(prompt, values, request))
    return (await gateway.generate(request)).answer.text


def _key(one: Rated, control: str, name: str, swapped: bool) -> str:
    """Of exactly this question and these answers."""
    told = json.dumps([one.question.id, one.answers[control], name, one.answers[name], swapped])
    return hashlib.sha256(told.encode()).hexdigest()[:24]


@contextmanager
def _kept(out: Path, made_by: Mapping[str, Any]) -> Iterator[tuple[IO[str], dict[str, float | None]]]:
    """The file to add to, and the points by key that it has. A last line that was cut by a kill is taken off."""
    kept: dict[str, float | None] = {}
    try:
        with locked(out, wait=False, what=str(out)):
            data = out.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            for number, line in enumerate(whole.splitlines(), 1):
                try:
                    row = json.loads(line)
                    judged_by, key, points = row["judged_by"], row["key"], row["points"]
                except (ValueError, KeyError, TypeError):
                    raise _refused(out, number, "no line of a judge") from None
                if judged_by != made_by:
                    raise _refused(out, number, f"was judged otherwise ({json.dumps(judged_by)})")
                kept[key] = points
            if data != whole and not data[len(whole) :].startswith(b'{"judged_by": '[: len(data) - len(whole)]):
                raise _refused(out, len(kept) + 1, "no line of a judge")
            with out.open("r+b") as file:
                file.truncate(len(whole))
            with out.open("a", encoding="utf-8") as file:
                yield file, kept
    except OSError as error:
        said = f"{out} cannot be written: {error.strerror or error}; what it has is kept, run it again"
        raise StoreError(said, path=str(out)) from error


def _refused(out: Path, number: int, why: str) -> InvalidRequest:
    return InvalidRequest(f"{out}:{number}: {why}; move it away or name other answers", param="judge")
