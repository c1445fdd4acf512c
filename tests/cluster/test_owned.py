"""What the owner takes a target for whose last replica Serve has taken away."""

from __future__ import annotations

import pytest

from roundhouse.core.chat import ChatRequest, Chunks
from roundhouse.core.model import ModelDescription
from roundhouse.engines import launch
from roundhouse.engines.lifecycle import Engine
from roundhouse.providers.base import AsyncProvider

pytest.importorskip("ray", reason="Ray is not installed here; run make test-ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what Ray imports


class _Client(AsyncProvider):
    """A deployment that gets a replica as soon as it is asked anything."""

    def __init__(self) -> None:
        self.awake = False
        self.asked = 0

    def astream(self, request: ChatRequest) -> Chunks:
        raise NotImplementedError

    async def adescribe(self) -> ModelDescription:
        self.asked += 1
        self.awake = True
        return ModelDescription()


async def test_a_target_that_sleeps_is_cold_and_is_woken_before_its_client_is_handed_out() -> None:
    from roundhouse.cluster.owner import OwnedReplica

    client = _Client()

    async def unused() -> None:
        pass

    engine = Engine("seldom", launch.attach("ray://seldom"))
    replica = OwnedReplica("seldom", engine, lambda ready: client, 1, unused=unused, awake=lambda: client.awake)
    assert not replica.warm
    assert await replica.client() is client
    assert replica.warm
    await replica.client()
    assert client.asked == 1
