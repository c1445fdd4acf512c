"""Ray Serve's router for a target's replicas: its consistent ring, with a bound on the load."""

from __future__ import annotations

from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from roundhouse.cluster.affinity import within_bound

__all__ = ["HomeRouter"]


class HomeRouter(ConsistentHashRouter):  # type: ignore[misc]  # Ray comes without types
    """The key is the `session_id` of the call. Any replica will do where the home is full or busier than the others.

    Slots are kept by Serve: a replica at its `max_ongoing_requests` refuses, and the next in order is asked.
    """

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        ranks: list[list[Any]] = await super().choose_replicas(candidate_replicas, pending_request)
        if len(ranks) < 2 or any(len(rank) != 1 for rank in ranks):
            return ranks
        ring = {rank[0].replica_id: rank for rank in ranks}
        loads = {one: self.replica_queue_len_cache.get(one) or 0 for one in ring}
        return [ring[one] for one in within_bound(list(ring), loads)]
