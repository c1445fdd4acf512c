"""What a replica asks of a node is what its model is planned to take there; how many there may be is as configured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from roundhouse.cluster.shares import Share, fit, scale_of, share_of
from roundhouse.config import Replicas, Settings, TargetSettings
from roundhouse.core.errors import NoFit
from roundhouse.core.model import DeviceFacts
from roundhouse.gateway.ways import ways_of

GIB = 1 << 30
DEMO = TargetSettings(name="demo", type="llamacpp", model="demo")
PROCESSOR = DeviceFacts("cpu", "cpu", 64 * GIB, 64 * GIB, cores=8)
GPU = DeviceFacts("GPU 0", "cuda", 4 * GIB, 4 * GIB)


def test_on_a_processor_it_asks_for_the_planned_memory_and_its_threads() -> None:
    share = share_of(replace(DEMO, options={"n_threads": 3}), Settings(), [[PROCESSOR]])
    planned = ways_of(replace(DEMO, options={"n_threads": 3}), Settings(), [PROCESSOR])[0].option.needs["cpu"]
    assert share == Share(3.0, 0.0, planned)
    assert share.options() == {"num_cpus": 3.0, "num_gpus": 0.0, "memory": planned}


def test_on_a_gpu_it_asks_for_the_part_that_its_memory_is() -> None:
    """Rounded up: replicas that Ray puts on one GPU by this account have room there."""
    share = share_of(DEMO, Settings(), [[PROCESSOR], [PROCESSOR, GPU]])
    needed = ways_of(DEMO, Settings(), [PROCESSOR, GPU], elsewhere=True)[0].option.needs["cuda0"]
    exact = needed / (0.8 * GPU.total_bytes)
    assert exact <= share.gpus < exact + 0.011


def test_a_gpu_for_vllm_is_the_share_that_it_takes() -> None:
    entry = TargetSettings(name="v", type="vllm", model="m", executable="vllm", options={"gpu_memory_utilization": 0.4})
    assert share_of(entry, Settings(), [[PROCESSOR, GPU]]).gpus == pytest.approx(0.5)
    both = replace(entry, options={"tensor_parallel_size": 2})
    two = [PROCESSOR, replace(GPU, total_bytes=8 * GIB), replace(GPU, index=1, total_bytes=8 * GIB)]
    assert (
        share_of(replace(both, options={**both.options, "gpu_memory_utilization": 0.8}), Settings(), [two]).gpus == 2.0
    )


def test_what_fits_on_no_node_is_refused_with_what_it_would_take() -> None:
    with pytest.raises(NoFit) as caught:
        share_of(DEMO, Settings(), [[replace(PROCESSOR, total_bytes=1 << 20)]])
    assert caught.value.needed_bytes > 1 << 20


@pytest.mark.parametrize(
    ("entry", "least", "most"),
    [
        (DEMO, 1, 1),
        (replace(DEMO, replicas=Replicas(0, 3)), 0, 3),
        (replace(DEMO, replicas=Replicas(2, 1)), 2, 2),
        (replace(DEMO, replicas=Replicas(0, 2), pin=True), 1, 2),
    ],
)
def test_replicas_are_as_configured(entry: TargetSettings, least: int, most: int) -> None:
    scale = scale_of(entry)
    assert (scale.least, scale.most) == (least, most)
    assert 0 < scale.load <= 4


def test_replicas_fit_if_they_do_all_at_once() -> None:
    nodes = [{"CPU": 4.0, "memory": 8.0 * GIB}, {"CPU": 4.0, "memory": 8.0 * GIB, "GPU": 1.0}]
    assert fit(nodes, [("a", Share(2.0, 0.0, GIB), 4)])
    assert not fit(nodes, [("a", Share(2.0, 0.0, GIB), 5)])
    assert not fit(nodes, [("a", Share(1.0, 0.0, 5 * GIB), 3)])
    assert fit(nodes, [("a", Share(1.0, 0.5), 2)])
    assert not fit(nodes, [("a", Share(1.0, 0.6), 2)])
