"""When requests are to be sent, decided before the first one is: plans of arrivals as pure data.

Open loop: the times do not depend on the answers, as the times of real users do not. Gaps of a Poisson process are
exponential; gamma gaps of shape `burstiness` are smoother above 1 and burstier below it.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from roundhouse.core.errors import InvalidRequest

__all__ = ["Arrivals", "ClosedLoop", "OpenLoop", "Shape", "pick", "plan", "read_trace"]

MOST_ARRIVALS = 5_000_000


class Shape(StrEnum):
    """How arrivals are spread over time."""

    CONSTANT = "constant"
    POISSON = "poisson"
    RAMP = "ramp"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """`rate` requests a second for `count` requests. A ramp goes from `rate` to `to_rate`; a replay sends at `trace`.

    `burstiness` is the shape of gamma-distributed gaps (1 = Poisson) and belongs to `poisson` alone.
    """

    shape: Shape
    rate: float = 0.0
    count: int = 0
    to_rate: float = 0.0
    burstiness: float = 1.0
    seed: int = 0
    trace: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`users` at once, each of whom asks again as soon as it has its answer, until `count` were asked."""

    users: int
    count: int


Arrivals = OpenLoop | ClosedLoop


def plan(load: OpenLoop) -> tuple[float, ...]:
    """Seconds after the start at which each request is due, in order. The same load gives the same times.

    Raises `InvalidRequest` for a rate, a count or a trace that cannot be planned.
    """
    _check(load)
    match load.shape:
        case Shape.CONSTANT:
            return tuple(number / load.rate for number in range(load.count))
        case Shape.POISSON:
            return tuple(_gamma(load))
        case Shape.RAMP:
            return tuple(_ramp(load))
        case Shape.REPLAY:
            first = load.trace[0]
            return tuple(at - first for at in load.trace)


def read_trace(path: Path) -> tuple[float, ...]:
    """Times of a trace: one JSON object with `at` (seconds), or one bare number, a line. Raises `InvalidRequest`."""
    times: list[float] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror or error}", param="trace") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is no trace: it is not UTF-8 text", param="trace") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            times.append(float(told["at"] if isinstance(told, dict) else told))
        except (ValueError, TypeError, KeyError) as error:
            said = f'{path}:{number}: expected a number of seconds or {{"at": seconds}}, not {line[:60]!r}'
            raise InvalidRequest(said, param="trace") from error
    return tuple(times)


def _check(load: OpenLoop) -> None:
    if load.shape is Shape.REPLAY:
        if not load.trace:
            raise InvalidRequest("the trace is empty; a replay needs at least one time", param="trace")
        if any(not math.isfinite(at) for at in load.trace) or list(load.trace) != sorted(load.trace):
            raise InvalidRequest("the times of a trace must be finite and in order", param="trace")
        return
    if not (0 < load.rate < math.inf):
        raise InvalidRequest(f"a rate must be more than 0 requests a second, not {load.rate}", param="rate")
    if not 0 < load.count <= MOST_ARRIVALS:
        raise InvalidRequest(f"the number of requests must be 1 to {MOST_ARRIVALS:,}, not {load.count}", param="count")
    if load.shape is Shape.RAMP and not (0 < load.to_rate < math.inf):
        raise InvalidRequest(f"a ramp must end at a rate above 0, not {load.to_rate}", param="to_rate")
    if load.shape is Shape.POISSON and not (0 < load.burstiness < math.inf):
        raise InvalidRequest(f"burstiness must be above 0, not {load.burstiness}", param="burstiness")


def _gamma(load: OpenLoop) -> Iterator[float]:
    chance = random.Random(load.seed)  # noqa: S311 - a schedule, no secret
    at = 0.0
    for _ in range(load.count):
        yield at
        at += chance.gammavariate(load.burstiness, 1 / (load.rate * load.burstiness))


def _ramp(load: OpenLoop) -> Iterator[float]:
    """Arrival n is where the integral of the rate, which grows by a constant each second, reaches n."""
    duration = 2 * load.count / (load.rate + load.to_rate)
    growth = (load.to_rate - load.rate) / duration
    for number in range(load.count):
        if abs(growth) < 1e-12:
            yield number / load.rate
        else:
            yield (math.sqrt(max(0.0, load.rate**2 + 2 * growth * number)) - load.rate) / growth


def pick(items: Sequence[int], count: int, seed: int) -> tuple[int, ...]:
    """Which item each request asks: all of them in a seeded order, again and again, until there are `count`."""
    chance = random.Random(seed)  # noqa: S311 - an order, no secret
    order: list[int] = []
    while len(order) < count:
        order += chance.sample(items, len(items))
    return tuple(order[:count])
