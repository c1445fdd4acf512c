"""What this machine has and what of it is free right now. The only file that asks the system.

A container's limit counts as much as the host's memory: the smaller of the two rules, with other processes' use taken
off, and page cache, which the kernel gives back on demand, counted as free.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from roundhouse.core.model import DeviceFacts

__all__ = ["cpu", "cpu_flags", "usable_cores"]

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


def cpu(cgroup: Path = _CGROUP) -> DeviceFacts:
    """The processor and its memory, within the limits of our control group."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit = _number(cgroup / "memory.max") or _number(cgroup / "memory" / "memory.limit_in_bytes")
    if limit is not None and limit < total:
        used = _number(cgroup / "memory.current") or _number(cgroup / "memory" / "memory.usage_in_bytes") or 0
        cache = _stat(cgroup / "memory.stat", "inactive_file") + _stat(cgroup / "memory.stat", "active_file")
        total, free = limit, min(free, max(0, limit - used + cache))
    return DeviceFacts(name="CPU", kind="cpu", total_bytes=total, free_bytes=free, cores=usable_cores(cgroup))


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Physical cores that are ours: by affinity and by the control group's quota; at least 1."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total_logical, physical = psutil.cpu_count() or 1, psutil.cpu_count(logical=False) or 1
    ours = max(1, logical * physical // max(total_logical, physical))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        ours = min(ours, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no quota: "max", or no control group of version 2
        return ours
    return ours


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Instruction set extensions as Linux names them; empty where it cannot be known."""
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        return frozenset()
    return frozenset()


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _stat(path: Path, name: str) -> int:
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        return 0
    return 0
