"""What is kept of one request, and every metric's definition. All times are monotonic seconds from the run's start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DEFINITIONS", "Record", "latency"]

# The id stands beside every number that is printed or stored: two tools that say TPOT may mean two things.
DEFINITIONS: Mapping[str, str] = {
    "ttft_sched": "first non-empty piece (text, reasoning, tool call) minus the scheduled time",
    "ttft": "first non-empty piece minus the time of sending",
    "e2e_sched": "end of the answer minus the scheduled time",
    "e2e": "end of the answer minus the time of sending",
    "tpot": "(e2e - ttft) / (output tokens as the backend counted - 1); undefined for fewer than 2",
    "itl": "gaps between the arrivals of successive non-empty pieces, pooled over all requests",
    "lag": "time of sending minus the scheduled time: what the generator itself was late",
}


@dataclass(slots=True)
class Record:
    """One request. `item` is the row of the dataset. `error` is an error's code; empty = answered.

    `cut`: the run ended first, so that it is neither a success nor a failure. `right`: the share of 1 by which the
    answer was right (exact match), None = nobody knows the right one.
    """

    item: int
    scheduled: float
    sent: float = 0.0
    first: float | None = None
    end: float = 0.0
    gaps: tuple[float, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    pieces: int = 0
    target: str = ""
    finish_reason: str = ""
    error: str = ""
    cut: bool = False
    text: str = ""
    right: float | None = None

    @property
    def answered(self) -> bool:
        return not self.error and not self.cut


def latency(record: Record, name: str) -> float | None:
    """A metric of one request in seconds, by its id in `DEFINITIONS`; None where it is undefined."""
    if name == "lag":
        return record.sent - record.scheduled
    if not record.answered or record.first is None:
        return None
    begun = record.scheduled if name.endswith("_sched") else record.sent
    if name.startswith("ttft"):
        return record.first - begun
    if name.startswith("e2e"):
        return record.end - begun
    if name == "tpot":
        return (record.end - record.first) / (record.output_tokens - 1) if record.output_tokens > 1 else None
    raise KeyError(name)
