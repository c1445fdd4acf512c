"""How an entry could be run on machines that are not here: GPUs are values."""

from pathlib import Path

import pytest

from roundhouse.config import Settings, TargetSettings, load_mapping
from roundhouse.core.model import DeviceFacts
from roundhouse.gateway import ways
from roundhouse.gateway.ways import ways_of
from roundhouse.resources.offload import CUDA_CONTEXT_BYTES
from roundhouse.resources.placement import Place, place

MIB, GIB = 1 << 20, 1 << 30


def _settings(**entry: object) -> tuple[TargetSettings, Settings]:
    settings = load_mapping({"llm": {"providers": [{"model": "demo", **entry}]}})
    return settings.targets[0], settings


def _machine(*gpus_mib: int) -> list[DeviceFacts]:
    cards = [DeviceFacts("GPU", "cuda", size * MIB, size * MIB, index=number) for number, size in enumerate(gpus_mib)]
    return [DeviceFacts("CPU", "cpu", 64 * GIB, 64 * GIB, cores=8), *cards]


@pytest.fixture(autouse=True)
def _a_build_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "can_offload", lambda executable: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_freest_gpu_comes_first_and_the_processor_last() -> None:
    entry, settings = _settings(type="llamacpp", n_ctx=512, n_parallel=1)
    found = ways_of(entry, settings, _machine(1000, 2000))
    assert [tuple(way.option.needs) for way in found] == [
        ("cpu", "cuda1"),
        ("cpu", "cuda0"),
        ("cpu", "cuda1", "cuda0"),
        ("cpu",),
    ]
    assert found[0].spawn.env["CUDA_VISIBLE_DEVICES"] == "1"
    assert found[0].spawn.settings is not None
    assert found[0].spawn.settings["n_gpu_layers"] == 7  # six layers and the output
    assert found[-1].option.compromise
    assert "processor" in found[-1].note


def test_a_gpu_that_is_too_small_takes_some_of_the_layers() -> None:
    entry, settings = _settings(type="llamacpp", n_ctx=32768, n_parallel=8)
    small = 8 + CUDA_CONTEXT_BYTES // MIB
    whole = ways_of(entry, settings, _machine(100_000))[0].option.needs["cuda0"] // MIB
    assert small < whole
    for size in range(small, whole + 200, 40):
        for way in ways_of(entry, settings, _machine(size)):
            if "layers" in way.note:
                assert 0 < way.option.needs["cuda0"] <= 0.8 * size * MIB
                assert sum(way.option.needs.values()) > CUDA_CONTEXT_BYTES
                return
    pytest.fail("no size at which some layers fit")


def test_moving_layers_moves_their_bytes() -> None:
    entry, settings = _settings(type="llamacpp", n_ctx=4096, n_parallel=4)
    on_gpu, on_cpu = (ways_of(entry, settings, _machine(4000))[number].option.needs for number in (0, -1))
    assert on_gpu["cpu"] < on_cpu["cpu"]
    assert on_gpu["cuda0"] > CUDA_CONTEXT_BYTES


def test_our_own_choice_of_devices_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaa, GPU-bbb")
    entry, settings = _settings(type="huggingface")
    assert ways_of(entry, settings, _machine(1000, 2000))[0].spawn.env["CUDA_VISIBLE_DEVICES"] == "GPU-bbb"


def test_a_build_that_cannot_use_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "can_offload", lambda executable: False)
    entry, settings = _settings(type="llamacpp", n_gpu_layers=-1)
    assert "cannot use a GPU" in ways_of(entry, settings, _machine(1000))[0].note


def test_what_is_unset_gives_way_and_what_is_set_does_not() -> None:
    entry, settings = _settings(type="llamacpp")
    found = ways_of(entry, settings, _machine())
    sizes = [(way.spawn.settings or {})["window"] for way in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(way.note for way in found[1:])
    totals = [way.option.needs["cpu"] for way in found]
    assert totals == sorted(totals, reverse=True)
    decision = place([way.option for way in found], [], {"cpu": totals[-1]})
    assert decision == Place(len(found) - 1)
    asked, settings = _settings(type="llamacpp", n_ctx=4096, n_parallel=4)
    assert len(ways_of(asked, settings, _machine())) == 1


def test_vllm_takes_its_share_of_as_many_gpus_as_it_is_told() -> None:
    entry, settings = _settings(type="vllm", executable="vllm", tensor_parallel_size=2, gpu_memory_utilization=0.5)
    needs = ways_of(entry, settings, _machine(1000, 1000, 1000))[0].option.needs
    assert needs == {"cuda0": 500 * MIB, "cuda1": 500 * MIB}


def test_a_name_on_the_hub_is_not_planned(tmp_path: Path) -> None:
    entry, settings = _settings(type="huggingface", model="someone/some-model")
    (way,) = ways_of(entry, settings, _machine(1000))
    assert way.option.needs == {}
