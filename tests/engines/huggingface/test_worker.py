"""The transformers worker as its parent sees it: what it says when it cannot start, and how it dies."""

import asyncio
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from roundhouse.core import errors
from roundhouse.core.chat import ChatRequest, Sampling
from roundhouse.engines import launch
from roundhouse.engines.huggingface import worker
from roundhouse.engines.huggingface.load import choose_device, choose_dtype
from roundhouse.engines.process import Child
from roundhouse.providers.base import Endpoint
from roundhouse.providers.huggingface import HuggingFaceClient
from tests.contract.subjects import DEMO_PROMPT, child, endpoint, huggingface


async def _fails(spawn: launch.Spawn) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        await Child.start("t", spawn, 60)
    return caught.value


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The demo model's folder, to be spoiled."""
    return Path(shutil.copytree(Path("roundhouse/demo/safetensors"), tmp_path / "model"))


async def test_a_half_file_is_said(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    error = await _fails(huggingface(copy))
    assert isinstance(error, errors.LaunchFailed)
    assert "could not be started" in str(error)
    assert error.log_tail


async def test_a_folder_without_safetensors_is_refused_even_if_it_holds_a_pickle(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    error = await _fails(huggingface(copy))
    assert isinstance(error, errors.LaunchFailed)
    assert "safetensors" in str(error)


async def test_code_that_comes_with_a_model_is_not_run(copy: Path) -> None:
    ran = copy / "ran"
    (copy / "configuration_x.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "x", "auto_map": {"AutoConfig": "configuration_x.X"}}
    (copy / "config.json").write_text(json.dumps(config))
    assert isinstance(await _fails(huggingface(copy)), errors.LaunchFailed)
    assert not ran.exists()


async def test_four_bits_without_the_library_say_what_to_install(copy: Path) -> None:
    assert "pip install bitsandbytes" in str(await _fails(huggingface(copy, load_in_4bit=True)))


async def test_without_torch_the_extra_to_install_is_named(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    spawn = huggingface()
    without = dataclasses.replace(spawn, env={"PYTHONPATH": str(tmp_path)})
    error = await _fails(without)
    assert isinstance(error, errors.MissingExtra)
    assert 'pip install "roundhouse[huggingface]"' in str(error)


async def test_only_its_parent_may_ask_it() -> None:
    async with child(huggingface()) as ready:
        stranger = HuggingFaceClient(Endpoint("t", ready.url, key="wrong"))
        with pytest.raises(errors.Misconfigured):
            await stranger.agenerate("hi")
        assert (await stranger.ahealth()).alive
        await stranger.aclose()


async def test_more_requests_than_slots_wait_and_all_are_answered() -> None:
    async with child(huggingface(n_parallel=2)) as ready:
        client = HuggingFaceClient(endpoint(ready))
        request = ChatRequest.of(DEMO_PROMPT, sampling=Sampling(temperature=0, max_tokens=40))
        answers = await asyncio.gather(*(client.agenerate(request) for _ in range(9)))
        assert len({answer.text for answer in answers}) == 1
        assert await client.abusy_slots() == 0
        await client.aclose()


def test_the_best_device_and_a_precision_that_is_fast_there() -> None:
    assert [choose_device(cuda=a, mps=b) for a, b in ((True, True), (False, True), (False, False))] == [
        "cuda",
        "mps",
        "cpu",
    ]
    assert choose_dtype("cuda", frozenset()) == "bfloat16"
    assert choose_dtype("cuda", frozenset(), cuda_bf16=False) == "float16"
    assert choose_dtype("mps", frozenset()) == "float16"
    assert choose_dtype("cpu", frozenset({"avx2"})) == "float32"
    assert choose_dtype("cpu", frozenset({"avx512_bf16"})) == "bfloat16"


class _Stuck:
    """A service that has work and makes no step, or whose thread is gone."""

    def __init__(self, *, alive: bool) -> None:
        self.alive, self.busy, self.steps = alive, 1, 5


@pytest.mark.parametrize(("alive", "said"), [(False, "has died"), (True, "has made no step for 0.2 s")])
async def test_a_dead_or_hung_generation_thread_is_noticed(
    monkeypatch: pytest.MonkeyPatch, alive: bool, said: str
) -> None:
    monkeypatch.setattr(worker, "_WATCH_S", 0.02)
    monkeypatch.setattr(worker, "_HUNG_S", 0.2)
    assert said in await asyncio.wait_for(worker._watch(_Stuck(alive=alive)), 10)
