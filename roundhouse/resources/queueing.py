"""How long requests wait for one of several equal servers, and how many servers a limit on the wait needs. Pure.

A server is one slot of one replica, so a replica that answers `r` requests per second with `s` slots busy is `s`
servers with a mean service time of `s / r` seconds. With fewer slots busy an engine answers each faster, so what is
said here is on the safe side.

Sources: Erlang C for Poisson arrivals and exponential times (M/M/c), by the stable recursion of Erlang B; for other
distributions the Allen-Cunneen approximation multiplies its mean wait by (Ca^2 + Cs^2) / 2, with the coefficients of
variation of the times between arrivals and of service. A. O. Allen, Probability, Statistics, and Queueing Theory, 2nd
ed. 1990, section 5.3.1; G. Bolch et al., Queueing Networks and Markov Chains, 2nd ed. 2006, section 6.3.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Load", "Wait", "replicas_for", "wait_of"]

_MOST_SERVERS = 100_000


@dataclass(frozen=True, slots=True)
class Load:
    """What comes and what one replica does. Rates per second; `per_replica` with all its `slots` busy.

    `arrival_cv`, `service_cv`: coefficients of variation, 1 = as Poisson arrivals and exponential times have.
    """

    rate: float
    per_replica: float
    slots: int = 1
    arrival_cv: float = 1.0
    service_cv: float = 1.0

    @property
    def service_s(self) -> float:
        """Mean seconds that a request holds a slot."""
        return self.slots / self.per_replica

    @property
    def least_replicas(self) -> int:
        """With fewer, the queue grows for ever."""
        return math.floor(self.rate / self.per_replica) + 1 if self.rate else 1


@dataclass(frozen=True, slots=True)
class Wait:
    """The steady state. `busy`: share of the slots in use; `waiting`: share of requests that wait; seconds."""

    busy: float
    waiting: float
    mean_s: float

    def percentile_s(self, share: float) -> float:
        """What `share` of the requests wait at most. The wait of those who wait is taken as exponential."""
        if self.waiting <= 1 - share:
            return 0.0
        return self.mean_s / self.waiting * math.log(self.waiting / (1 - share))


def wait_of(load: Load, replicas: int) -> Wait:
    """With this many replicas and one queue before them all; for ever where they cannot keep up."""
    if not load.rate:
        return Wait(0.0, 0.0, 0.0)
    servers = replicas * load.slots
    offered = load.rate * load.service_s
    busy = offered / servers if servers else math.inf
    if busy >= 1:
        return Wait(1.0, 1.0, math.inf)
    waiting = _erlang_c(servers, offered)
    exponential_s = waiting * load.service_s / (servers - offered)
    return Wait(busy, waiting, exponential_s * (load.arrival_cv**2 + load.service_cv**2) / 2)


def replicas_for(load: Load, wait_s: float, share: float) -> int:
    """The fewest replicas with which `share` of the requests wait `wait_s` at most.

    Raises `ValueError` where that takes more than 100,000 slots.
    """
    count = load.least_replicas
    while count * load.slots <= _MOST_SERVERS:
        if wait_of(load, count).percentile_s(share) <= wait_s:
            return count
        count += 1
    raise ValueError(f"{load.rate:g} requests/s at {load.per_replica:g} per replica need over {_MOST_SERVERS:,} slots")


def _erlang_c(servers: int, offered: float) -> float:
    """Share of arrivals that find all servers busy."""
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))
