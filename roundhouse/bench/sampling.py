"""CPU, memory and GPUs while a run goes on, sampled on the run's own clock by a thread of its own."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psutil

from roundhouse.resources.hardware import cpu

__all__ = ["Sample", "Sampler", "energy_j", "within"]

# The first request is due so long after the samples begin, so that it is not late by what it takes to begin.
_LEAD_S = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """`at` in seconds from the start of the load. Cores and bytes in use: ours with all children, and of the machine,
    or of the control group that confines our memory.

    `gpus`: for each, its share of time busy (0 to 1), bytes in use, watts (None where it does not tell).
    """

    at: float
    own_cores: float
    machine_cores: float
    own_bytes: int
    machine_bytes: int
    gpus: tuple[tuple[float, int, float | None], ...] = field(default=())


class Sampler:
    """Samples until left. `pids` are watched with their children, besides this process and its own.

    `begun` (monotonic): the zero of all times of the load, a moment ahead when it is entered.
    """

    def __init__(self, hertz: float = 5.0, pids: Iterable[int] = ()) -> None:
        self.samples: list[Sample] = []
        self._period_s = 1 / hertz
        self._roots = (psutil.Process().pid, *pids)
        self._known: dict[int, psutil.Process] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bench sampler", daemon=True)
        self.begun = 0.0
        self._nvml: Any = None

    def __enter__(self) -> Sampler:
        self.begun = time.monotonic() + _LEAD_S
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        self._nvml = _nvml()
        psutil.cpu_percent()
        self._own()
        try:
            while not self._over.wait(self._period_s):
                cores, size = self._own()
                memory = cpu()
                self.samples.append(
                    Sample(
                        at=time.monotonic() - self.begun,
                        own_cores=cores,
                        machine_cores=psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1),
                        own_bytes=size,
                        machine_bytes=memory.total_bytes - memory.free_bytes,
                        gpus=_gpus(self._nvml),
                    )
                )
        finally:
            if self._nvml is not None:
                with contextlib.suppress(self._nvml.NVMLError):
                    self._nvml.nvmlShutdown()

    def _own(self) -> tuple[float, int]:
        """Cores in use since the last call, and resident bytes, of the watched processes and their children."""
        now: dict[int, psutil.Process] = {}
        for root in self._roots:
            with contextlib.suppress(psutil.Error):
                process = self._known.get(root) or psutil.Process(root)
                for one in (process, *process.children(recursive=True)):
                    now[one.pid] = self._known.get(one.pid, one)
        self._known = now
        cores, size = 0.0, 0
        for process in now.values():
            with contextlib.suppress(psutil.Error):
                cores += process.cpu_percent() / 100
                size += process.memory_info().rss
        return cores, size


def within(samples: Iterable[Sample], begin: float, end: float) -> list[Sample]:
    """Those of the measured window."""
    return [sample for sample in samples if begin <= sample.at <= end]


def energy_j(samples: Iterable[Sample]) -> float | None:
    """The integral of all GPUs' power over the samples; None where nothing tells its power."""
    told = [(sample.at, [watts for *_, watts in sample.gpus if watts is not None]) for sample in samples]
    powered = [(at, sum(watts)) for at, watts in told if watts]
    if len(powered) < 2:
        return None
    return sum((later[0] - earlier[0]) * (later[1] + earlier[1]) / 2 for earlier, later in itertools.pairwise(powered))


def _nvml() -> Any:
    """NVML, opened; None where there is no library or no driver that answers."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _gpus(nvml: Any) -> tuple[tuple[float, int, float | None], ...]:
    if nvml is None:
        return ()
    rows = []
    count = 0
    with contextlib.suppress(nvml.NVMLError):  # a driver that is being exchanged
        count = nvml.nvmlDeviceGetCount()
    for index in range(count):
        with contextlib.suppress(nvml.NVMLError):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            used = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
            rows.append((busy, used, _watts(nvml, handle)))
    return tuple(rows)


def _watts(nvml: Any, handle: Any) -> float | None:
    with contextlib.suppress(nvml.NVMLError):
        return float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1000
    return None
