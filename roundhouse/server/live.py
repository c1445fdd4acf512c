"""Figures of now for the page: what the server answered in the last minute, and what its engines do."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from roundhouse.core.report import Report
from roundhouse.gateway import Gateway

__all__ = ["Live", "row_of"]

_RECENT = 50


class Live:
    """The same numbers as `/metrics`: of every request through this house, whichever wire it came by."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._began = time.time()

    def snapshot(self) -> Mapping[str, Any]:
        """Plain values; seconds, tokens, shares of 1. `minute` and `first_token` are of the last minute."""
        meter = self._gateway.meter
        first = meter.first_tokens.recent().quantile
        watch = self._gateway.drifts
        return {
            "at": time.time(),
            "up_s": time.time() - self._began,
            "totals": dataclasses.asdict(meter.numbers.summary()),
            "minute": dataclasses.asdict(meter.numbers.minute()),
            "first_token": {"p50_s": first(0.5), "p95_s": first(0.95), "p99_s": first(0.99)},
            "clients_gone": meter.left,
            "state": self._gateway.state(),
            "drifted": [one for one in watch.standing() if one["state"] == "drifted"] if watch is not None else [],
            "routes": {name: list(targets) for name, targets in self._gateway.names().items()},
            "recent": [row_of(report) for report in self._gateway.recent(_RECENT)],
        }


def row_of(report: Report) -> dict[str, Any]:
    """One request in a list: who answered, and how often others were asked before."""
    ended = bool(report.attempts) and report.attempts[-1].outcome == "ok"
    return {
        "id": report.request_id,
        "route": report.route,
        "target": report.target,
        "replica": report.replica,
        "attempts": len(report.attempts),
        "outcome": report.attempts[-1].outcome if report.attempts else "running",
        "seconds": report.attempts[-1].seconds if ended else None,
        "queue_s": report.queue_s,
        "load_s": report.load_s,
        "warnings": len(report.warnings),
    }
