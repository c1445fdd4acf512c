"""What this machine has and what of it is free right now. The only file that asks the system and the drivers.

A container's limit counts as much as the host's memory: the smaller of the two rules, with other processes' use taken
off, and page cache, which the kernel gives back on demand, counted as free.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from roundhouse.core.model import DeviceFacts

__all__ = [
    "Roots",
    "cpu",
    "cpu_flags",
    "describe",
    "devices",
    "gpus",
    "processor_seconds",
    "resident_bytes",
    "taken_by",
    "usable_cores",
    "usable_threads",
]


@dataclass(frozen=True, slots=True)
class Roots:
    """Where Linux tells of itself."""

    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")
    cpus: Path = Path("/sys/devices/system/cpu")


_HERE = Roots()


def devices(roots: Roots = _HERE) -> tuple[DeviceFacts, ...]:
    """The processor first, then every GPU that the driver shows to us."""
    return (cpu(roots), *gpus())


def cpu(roots: Roots = _HERE) -> DeviceFacts:
    """The processor and its memory, within the limits of our control groups."""
    total, free = _host_memory(roots)
    for limit, free_here in _group_memory(roots):
        total, free = min(total, limit), min(free, free_here)
    return DeviceFacts(name="CPU", kind="cpu", total_bytes=total, free_bytes=free, cores=usable_cores(roots))


def usable_cores(roots: Roots = _HERE, ours: AbstractSet[int] | None = None) -> int:
    """Physical cores that are ours: by affinity (`ours`, None = as the system says) and by quota; at least 1."""
    if ours is None:
        ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else frozenset()
    cores = _physical(roots, ours) or psutil.cpu_count(logical=False) or len(ours) or 1
    for quota, period in _group_quotas(roots):
        if quota > 0 and period > 0:
            cores = min(cores, quota // period)
    return max(1, cores)


def usable_threads(roots: Roots = _HERE) -> float:
    """Processor time that may be ours a second, in hardware threads: by affinity and by quota."""
    threads = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for quota, period in _group_quotas(roots):
        if quota > 0 and period > 0:
            threads = min(threads, quota / period)
    return threads


def cpu_flags(roots: Roots = _HERE) -> frozenset[str]:
    """Instruction set extensions as Linux names them; empty where it cannot be known."""
    for line in _lines(roots.proc / "cpuinfo"):
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def gpus() -> tuple[DeviceFacts, ...]:
    """NVIDIA GPUs, in the order and numbering that CUDA gives a child of ours; none without `pynvml` or a driver."""
    with _driver() as nvml:
        found = [_gpu(nvml, uuid, handle, index) for index, (uuid, handle) in enumerate(_handles(nvml) if nvml else ())]
    return tuple(gpu for gpu in found if gpu is not None)


def taken_by(pid: int) -> dict[str, int]:
    """Bytes that a process and its descendants hold, by place; empty once it is gone.

    On the processor what the kernel could not take back: pages of mapped files are not counted.
    """
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    taken = {"cpu": sum(map(_own_bytes, family))}
    pids = {one.pid for one in family}
    for place, users in _gpu_users().items():
        if size := sum(used for user, used in users if user in pids):
            taken[place] = size
    return taken


def resident_bytes(pid: int) -> int:
    """Memory that a process and its descendants have in use, pages of mapped files included; 0 once it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(int(one.memory_info().rss) for one in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0


def processor_seconds(pid: int) -> float | None:
    """Processor time that a process and its descendants have used; None once it is gone."""
    try:
        process = psutil.Process(pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    except psutil.Error:
        return None
    return float(sum(one.user + one.system for one in times))


def _own_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def _gpu_users() -> dict[str, list[tuple[int, int]]]:
    """By place, the processes on it and what they take; a process inside a container may be shown by another number."""
    users = {}
    with _driver() as nvml:
        for index, (_, handle) in enumerate(_handles(nvml) if nvml else ()):
            try:
                found = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except nvml.NVMLError:  # not told everywhere
                found = ()
            users[f"cuda{index}"] = [(int(one.pid), int(one.usedGpuMemory or 0)) for one in found]
    return users


def describe(found: Sequence[DeviceFacts]) -> tuple[tuple[str, str], ...]:
    """A name and a sentence for each device, as `doctor` shows them."""
    return tuple((device.place, _said(device)) for device in found)


def _said(device: DeviceFacts) -> str:
    gib = 1 << 30
    memory = f"{device.free_bytes / gib:.1f} of {device.total_bytes / gib:.1f} GiB free"
    if device.kind == "cpu":
        return f"{device.cores} {'core' if device.cores == 1 else 'cores'}, {memory}"
    used = "" if device.utilisation is None else f", {device.utilisation:.0%} busy"
    return f"{device.name}, {memory}{used}"


def _host_memory(roots: Roots) -> tuple[int, int]:
    """Total and available bytes; what the kernel would give back counts as available."""
    rows = dict(_pairs(roots.proc / "meminfo", separator=":"))
    if "MemTotal" in rows and "MemAvailable" in rows:
        return rows["MemTotal"] << 10, rows["MemAvailable"] << 10
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def _group_memory(roots: Roots) -> Iterator[tuple[int, int]]:
    """Limit and free bytes of every control group above us that has a limit, of version 2 and of version 1."""
    for group in _groups(roots, ""):
        limits = [limit for name in ("memory.max", "memory.high") if (limit := _number(group / name)) is not None]
        used = _number(group / "memory.current")
        if limits and used is not None:
            yield min(limits), _free(min(limits), used, group, "inactive_file", "active_file")
    for group in _groups(roots, "memory"):
        limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            yield limit, _free(limit, used, group, "total_inactive_file", "total_active_file")


def _free(limit: int, used: int, group: Path, *cache: str) -> int:
    rows = dict(_pairs(group / "memory.stat"))
    return max(0, min(limit, limit - used + sum(rows.get(name, 0) for name in cache)))


def _group_quotas(roots: Roots) -> Iterator[tuple[int, int]]:
    """Processor time that a control group may use, and the period it is counted over."""
    for group in _groups(roots, ""):
        for quota, period in _pairs(group / "cpu.max"):
            yield int(quota) if quota.isdecimal() else 0, period
    for group in _groups(roots, "cpu"):
        yield _number(group / "cpu.cfs_quota_us") or 0, _number(group / "cpu.cfs_period_us") or 0


def _groups(roots: Roots, controller: str) -> Iterator[Path]:
    """Our group under a controller ("" = version 2) and all above it. A container may see its own as the root."""
    root = roots.cgroup / controller
    own = ""
    for line in _lines(roots.proc / "self" / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            own = path.strip("/")
    for depth in range(len(Path(own).parts), -1, -1):
        group = root.joinpath(*Path(own).parts[:depth])
        if group.is_dir():
            yield group


def _physical(roots: Roots, ours: Iterable[int]) -> int:
    """Distinct cores behind these logical processors; 0 where the system does not tell."""
    siblings = set()
    for number in ours:
        lines = list(_lines(roots.cpus / f"cpu{number}" / "topology" / "thread_siblings_list"))
        if not lines:
            return 0
        siblings.add(lines[0])
    return len(siblings)


@dataclass(frozen=True, slots=True)
class _Card:
    """A GPU and what of it a process can be given: itself, or its MIG instances, of which a process sees one."""

    uuid: str
    parts: tuple[tuple[str, Any], ...]


def _visible(cards: Sequence[_Card], setting: str | None) -> list[tuple[str, Any]]:
    """The parts that CUDA_VISIBLE_DEVICES lets through, in its order; like CUDA, up to the first unknown entry."""
    if setting is None:
        return [part for card in cards for part in card.parts]
    chosen: list[tuple[str, Any]] = []
    for entry in setting.split(","):
        wanted = entry.strip()
        matches = [card.parts[:1] for number, card in enumerate(cards) if wanted == str(number)]
        if wanted.startswith("GPU-"):
            matches += [card.parts[:1] for card in cards if card.uuid.startswith(wanted)]
        if wanted.startswith("MIG-"):
            matches += [(part,) for card in cards for part in card.parts if part[0].startswith(wanted)]
        if len(matches) != 1:
            break
        chosen += matches[0]
    return chosen


def _gpu(nvml: Any, uuid: str, handle: Any, index: int) -> DeviceFacts | None:
    """One GPU; None if it does not tell its memory (then nothing can be planned on it)."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = _text(nvml.nvmlDeviceGetName(handle))
    except nvml.NVMLError:
        return None
    try:
        utilisation = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError:  # not told on every card, nor inside every partition
        utilisation = None
    free, total = int(memory.free), int(memory.total)
    return DeviceFacts(name, "cuda", total, free, index=index, utilisation=utilisation, uuid=uuid)


@contextmanager
def _driver() -> Iterator[Any]:
    """NVML, opened; None where there is no library or no driver that answers: then there is no GPU to plan with."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except ImportError:
        yield None
        return
    except nvml.NVMLError:
        yield None
        return
    try:
        yield nvml
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _handles(nvml: Any) -> list[tuple[str, Any]]:
    """Those that a child of ours would see, with the names by which CUDA tells them apart."""
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
        cards = [_Card(_text(nvml.nvmlDeviceGetUUID(handle)), tuple(_parts(nvml, handle))) for handle in handles]
    except nvml.NVMLError:
        return []
    return _visible(cards, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _parts(nvml: Any, handle: Any) -> Iterator[tuple[str, Any]]:
    """A card as a whole, or each of its MIG instances: with that switched on nothing can use the whole."""
    try:
        divided, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # this kind of card cannot be divided
        divided = 0
    if not divided:
        yield _text(nvml.nvmlDeviceGetUUID(handle)), handle
        return
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError:  # so many there could be
            continue
        yield _text(nvml.nvmlDeviceGetUUID(part)), part


def _text(value: str | bytes) -> str:
    """Older versions of `pynvml` answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text(errors="replace").splitlines()
    except OSError:  # not this kind of system
        return


def _number(path: Path) -> int | None:
    """The one number in a file; None if there is none, or it says "max"."""
    for line in _lines(path):
        if line.strip().isdecimal():
            return int(line)
    return None


def _pairs(path: Path, separator: str | None = None) -> Iterator[tuple[str, int]]:
    """Lines of a name and a number, whatever follows ignored."""
    for line in _lines(path):
        name, *rest = (part.strip() for part in line.split(separator, 1))
        number = rest[0].split()[0] if rest and rest[0] else ""
        if number.isdecimal():
            yield name, int(number)
