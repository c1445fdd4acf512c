"""The processes of one cluster and of nobody else: all that it starts inherit the mark that it is given."""

from __future__ import annotations

import os

import psutil

__all__ = ["MARK", "end", "members"]

MARK = "ROUNDHOUSE_TEST_CLUSTER"
_LIMIT_S = 10


def members(mark: str) -> list[psutil.Process]:
    """Whoever's environment says `mark`, however it calls itself and whoever is its parent by now."""
    return [one for one in psutil.process_iter() if one.pid != os.getpid() and _mark_of(one) == mark]


def end(mark: str) -> None:
    """Kill those, until none is left: one that dies may have just started another."""
    while left := members(mark):
        for one in left:
            try:
                one.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(left, timeout=_LIMIT_S)


def _mark_of(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK, "") if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""
