"""How an entry could be run on machines that are not here: GPUs are values."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from roundhouse.config import Settings, TargetSettings, load_mapping
from roundhouse.core.errors import LicenceRefused
from roundhouse.core.model import DeviceFacts
from roundhouse.gateway import described, ways
from roundhouse.gateway.demo import demo_safetensors
from roundhouse.gateway.ways import ways_of
from roundhouse.resources.offload import CUDA_CONTEXT_BYTES
from roundhouse.resources.placement import Place, place
from roundhouse.store.hub_models import HubModels
from tests.fakes.hub import Hub, running_hub

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


def test_parts_of_divided_cards_are_used_one_at_a_time() -> None:
    """A process sees one of them; it is named by its UUID."""
    sizes = {"MIG-a": 1000, "MIG-b": 2000, "GPU-c": 500}
    parts = [
        DeviceFacts("GPU", "cuda", size * MIB, size * MIB, index=number, uuid=uuid)
        for number, (uuid, size) in enumerate(sizes.items())
    ]
    entry, settings = _settings(type="llamacpp", n_ctx=512, n_parallel=1)
    found = ways_of(entry, settings, [*_machine(), *parts])
    assert [way.spawn.env.get("CUDA_VISIBLE_DEVICES") for way in found] == ["MIG-b", "MIG-a", "GPU-c", None]


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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """One that has the demo model, is asked afresh, and beside it an empty cache."""
    monkeypatch.setattr(described, "_hub", HubModels())
    with running_hub() as hub:
        hub.push("acme/varo", {path.name: path.read_bytes() for path in demo_safetensors().iterdir() if path.is_file()})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub


def test_a_name_on_the_hub_is_planned_before_it_is_fetched(hub: Hub) -> None:
    """As its folder would be, and the hub is asked once."""
    entry, settings = _settings(type="huggingface", model="acme/varo")
    here, _ = _settings(type="huggingface")
    for _ in range(2):
        found, there = ways_of(entry, settings, _machine(1000)), ways_of(here, settings, _machine(1000))
        assert [way.option for way in found] == [way.option for way in there]
    assert hub.requests == ["list acme/varo"]
    assert (found[0].spawn.settings or {})["model"] == "acme/varo"


def test_a_name_on_the_hub_is_planned_from_the_cache_if_it_lies_there(hub: Hub, tmp_path: Path) -> None:
    """A download that stopped halfway is no answer."""
    entry, settings = _settings(type="huggingface", model="acme/varo")
    config = hf_hub_download("acme/varo", "config.json", endpoint=hub.url, cache_dir=tmp_path / "hf" / "hub")
    weights = Path(config).parent / "model.safetensors"
    weights.write_bytes((demo_safetensors() / "model.safetensors").read_bytes())
    hub.requests.clear()
    whole = ways_of(entry, settings, _machine())[0].option
    assert whole.needs["cpu"] > 0
    assert hub.requests == []
    weights.unlink()
    assert ways_of(entry, settings, _machine())[0].option == whole
    assert hub.requests == ["list acme/varo"]


def test_a_name_of_which_nothing_is_known_is_loaded_without_a_plan_and_that_is_said(hub: Hub) -> None:
    entry, settings = _settings(type="huggingface", model="acme/unknown")
    (way,) = ways_of(entry, settings, _machine(1000))
    assert way.option.needs == {}
    assert "not known before it is loaded" in way.note
    assert "no such repository" in way.note


def test_a_licence_policy_holds_for_names_on_the_hub(hub: Hub) -> None:
    """By what the hub says of it; what nobody can say is refused."""
    providers = [{"type": "huggingface", "model": name} for name in ("acme/varo", "acme/unknown")]
    document = {"llm": {"providers": providers}, "licences": {"require_commercial": True}}
    settings = load_mapping(document)
    known, unknown = settings.targets
    assert ways_of(known, settings, _machine())[0].option.needs
    with pytest.raises(LicenceRefused):
        ways_of(unknown, settings, _machine())
    hub.push("acme/varo", hub.repositories["acme/varo"][hub.heads["acme/varo"]], licence="cc-by-nc-4.0")
    described._hub = HubModels()
    with pytest.raises(LicenceRefused, match="cc-by-nc"):
        ways_of(known, settings, _machine())
