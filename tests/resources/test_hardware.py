"""The smaller of container and host rules; what the kernel would give back counts as free."""

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from roundhouse.resources import hardware
from roundhouse.resources.hardware import Roots

GIB = 1 << 30


def _groups(folder: Path) -> Roots:
    """The machine as it is, within the control groups of `folder`."""
    return Roots(cgroup=folder)


def test_without_a_control_group_the_host_counts(tmp_path: Path) -> None:
    cpu = hardware.cpu(_groups(tmp_path))
    assert cpu.total_bytes == psutil.virtual_memory().total
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert cpu.cores >= 1


def test_a_containers_limit_rules_and_its_page_cache_is_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 2}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 8}\nactive_file {GIB // 8}\n")
    cpu = hardware.cpu(_groups(tmp_path))
    assert cpu.total_bytes == GIB
    assert cpu.free_bytes == GIB // 2 + GIB // 4


def test_version_one_of_control_groups_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(GIB))
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(str(GIB // 4))
    assert hardware.cpu(_groups(tmp_path)).free_bytes == GIB * 3 // 4


@pytest.mark.parametrize("text", ["max", "", "not a number"])
def test_no_limit_is_no_limit(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert hardware.cpu(_groups(tmp_path)).total_bytes == psutil.virtual_memory().total


def test_a_quota_of_processor_time_limits_the_cores(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert hardware.usable_cores(_groups(tmp_path)) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert hardware.usable_cores(_groups(tmp_path)) == hardware.usable_cores(_groups(tmp_path / "none"))


def test_processor_flags_are_read_where_linux_tells_them(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx2 fma\n")
    assert hardware.cpu_flags(Roots(proc=tmp_path)) == {"fpu", "avx2", "fma"}
    assert hardware.cpu_flags(Roots(proc=tmp_path / "none")) == frozenset()


def test_every_group_above_ours_limits_us(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/team/job\n")
    (groups / "team" / "job").mkdir(parents=True)
    (groups / "team" / "memory.max").write_text(f"{GIB}\n")
    (groups / "team" / "memory.current").write_text(f"{GIB // 4}\n")
    (groups / "team" / "job" / "memory.max").write_text("max\n")
    (groups / "team" / "job" / "memory.current").write_text("1\n")
    assert hardware.cpu(Roots(proc=proc, cgroup=groups)).total_bytes == GIB


def test_two_threads_of_one_core_are_one_core(tmp_path: Path) -> None:
    for number, siblings in enumerate(("0-1", "0-1", "2-3", "2-3")):
        topology = tmp_path / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    roots = Roots(cgroup=tmp_path / "none", cpus=tmp_path)
    assert hardware.usable_cores(roots, ours={0, 1, 2, 3}) == 2
    assert hardware.usable_cores(roots, ours={1, 2}) == 2
    assert hardware.usable_cores(roots, ours={3}) == 1


class _FakeNVML:
    """Two cards, the second of which does not tell how busy it is."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return f"GPU-{handle}abc".encode()

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:
        raise self.NVMLError

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"Card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=8 * GIB, free=(6 + handle) * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if handle:
            raise self.NVMLError
        return SimpleNamespace(gpu=50)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["Card 0", "Card 1"]),
        ("1,0", ["Card 1", "Card 0"]),
        ("GPU-1", ["Card 1"]),
        ("0,7,1", ["Card 0"]),
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_are_those_that_a_child_would_see(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _FakeNVML())
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = hardware.gpus()
    assert [gpu.name for gpu in found] == names
    assert [gpu.index for gpu in found] == list(range(len(names)))
    assert {gpu.name: gpu.utilisation for gpu in found} == {name: 0.5 if name == "Card 0" else None for name in names}


class _FakeDivided(_FakeNVML):
    """The first card is divided: two of its seven possible instances were made, handles 10 and 12."""

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return f"{'MIG' if handle >= 10 else 'GPU'}-{handle}abc".encode()

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:
        return (0 if handle else 1), 1

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, number: int) -> int:
        if number not in (0, 2):
            raise self.NVMLError
        return 10 + number

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=handle * GIB, free=handle * GIB)


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["MIG-10abc", "MIG-12abc", "GPU-1abc"]),
        ("MIG-12", ["MIG-12abc"]),
        ("0", ["MIG-10abc"]),
        ("1,MIG-12abc", ["GPU-1abc", "MIG-12abc"]),
        ("MIG-99", []),
    ],
)
def test_a_divided_card_is_its_parts(monkeypatch: pytest.MonkeyPatch, visible: str | None, uuids: list[str]) -> None:
    """Each with its own memory: the whole of it can be used by nobody."""
    monkeypatch.setitem(sys.modules, "pynvml", _FakeDivided())
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = hardware.gpus()
    assert [gpu.uuid for gpu in found] == uuids
    assert [gpu.total_bytes for gpu in found] == [
        {"MIG-10abc": 10, "MIG-12abc": 12, "GPU-1abc": 1}[uuid] * GIB for uuid in uuids
    ]


class _FakeBroken(_FakeNVML):
    """`fails` names the call that the driver refuses."""

    def __init__(self, fails: str) -> None:
        def refuse(*arguments: object) -> None:
            raise self.NVMLError(fails)

        setattr(self, fails, refuse)


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"])
def test_a_driver_that_does_not_answer_is_the_same_as_none(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _FakeBroken(fails))
    assert hardware.gpus() == ()
    assert hardware.devices()[0].kind == "cpu"


def test_a_driver_that_does_not_let_go_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", _FakeBroken("nvmlShutdown"))
    assert len(hardware.gpus()) == 2


def test_a_card_without_memory_of_its_own_is_not_planned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _FakeBroken("nvmlDeviceGetMemoryInfo"))
    assert hardware.gpus() == ()
