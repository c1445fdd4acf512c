"""The smaller of container and host rules; what the kernel would give back counts as free."""

from pathlib import Path

import psutil
import pytest

from roundhouse.resources import hardware

GIB = 1 << 30


def test_without_a_control_group_the_host_counts(tmp_path: Path) -> None:
    cpu = hardware.cpu(tmp_path)
    assert cpu.total_bytes == psutil.virtual_memory().total
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert cpu.cores >= 1


def test_a_containers_limit_rules_and_its_page_cache_is_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 2}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 8}\nactive_file {GIB // 8}\n")
    cpu = hardware.cpu(tmp_path)
    assert cpu.total_bytes == GIB
    assert cpu.free_bytes == GIB // 2 + GIB // 4


def test_version_one_of_control_groups_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(GIB))
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(str(GIB // 4))
    assert hardware.cpu(tmp_path).free_bytes == GIB * 3 // 4


@pytest.mark.parametrize("text", ["max", "", "not a number"])
def test_no_limit_is_no_limit(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert hardware.cpu(tmp_path).total_bytes == psutil.virtual_memory().total


def test_a_quota_of_processor_time_limits_the_cores(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert hardware.usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert hardware.usable_cores(tmp_path) == hardware.usable_cores(tmp_path / "none")


def test_processor_flags_are_read_where_linux_tells_them(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx2 fma\n")
    assert hardware.cpu_flags(info) == {"fpu", "avx2", "fma"}
    assert hardware.cpu_flags(tmp_path / "none") == frozenset()
