"""Replicas over the nodes of a cluster, and what is left when a node dies. Pure.

Each node is placed on as one machine is (`placement.place`): a replica takes some of a node's places, which are its
memories in bytes and its processors in thousandths (`cores`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roundhouse.resources.placement import Option, Place, place

__all__ = ["CORES", "Assignment", "Cluster", "Demand", "NodeFacts", "after_loss", "assign"]

CORES = "cores"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A machine. `room`: what models may take of each place; `kind` is shared by machines that are alike."""

    name: str
    kind: str
    room: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Demand:
    """A model with the replicas it wants. `options` by kind of node, best first; none = it cannot run there."""

    model: str
    replicas: int
    options: Mapping[str, Sequence[Option]]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One replica on one node, and what it takes there. `option` counts those of its demand for that kind of node."""

    model: str
    node: str
    option: int
    needs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Who is where; `missing` counts by model the replicas that found no room."""

    placed: tuple[Assignment, ...]
    missing: Mapping[str, int]

    def on(self, node: str) -> list[Assignment]:
        return [one for one in self.placed if one.node == node]

    def count(self, model: str) -> int:
        return sum(one.model == model for one in self.placed)


def assign(nodes: Sequence[NodeFacts], demands: Sequence[Demand], placed: Sequence[Assignment] = ()) -> Cluster:
    """All demands on the nodes, as well as a simple rule does it; `placed` stay where they are.

    Every model gets its first replica before any gets its second, the largest first. A replica goes where it runs
    without compromise, then where fewest of its siblings are, so that a dead node takes few of them, then where the
    least room is left over.
    """
    room = {node.name: dict(node.room) for node in nodes}
    there = list(placed)
    for one in there:
        _take(room[one.node], one.needs)
    missing: dict[str, int] = {}
    for demand in _in_turn(demands, there):
        found = _best(demand, nodes, room, there)
        if found is None:
            missing[demand.model] = missing.get(demand.model, 0) + 1
            continue
        there.append(found)
        _take(room[found.node], found.needs)
    return Cluster(tuple(there), missing)


def after_loss(lost: str, nodes: Sequence[NodeFacts], demands: Sequence[Demand], before: Cluster) -> Cluster:
    """Where everything is once the replicas of the dead node have found new places; nobody else is moved."""
    left = [node for node in nodes if node.name != lost]
    return assign(left, demands, [one for one in before.placed if one.node != lost])


def _in_turn(demands: Sequence[Demand], placed: Sequence[Assignment]) -> list[Demand]:
    """A demand for each replica that is still wanted, in rounds."""
    largest_first = sorted(demands, key=_size, reverse=True)
    have = {one.model: sum(other.model == one.model for other in placed) for one in demands}
    rounds = range(max((one.replicas for one in demands), default=0))
    return [one for number in rounds for one in largest_first if have[one.model] <= number < one.replicas]


def _size(demand: Demand) -> int:
    """The bytes of its smallest first choice on any kind of node."""
    firsts = [options[0].needs for options in demand.options.values() if options]
    return min((sum(size for name, size in needs.items() if name != CORES) for needs in firsts), default=0)


def _best(
    demand: Demand, nodes: Sequence[NodeFacts], room: Mapping[str, Mapping[str, int]], there: Sequence[Assignment]
) -> Assignment | None:
    found: list[tuple[tuple[bool, int, float], Assignment]] = []
    for node in nodes:
        options = demand.options.get(node.kind, ())
        decision = place(options, (), room[node.name]) if options else None
        if not isinstance(decision, Place):
            continue
        chosen = options[decision.option]
        siblings = sum(one.model == demand.model and one.node == node.name for one in there)
        cost = (chosen.compromise, siblings, _left_over(room[node.name], node.room, chosen.needs))
        found.append((cost, Assignment(demand.model, node.name, decision.option, chosen.needs)))
    return min(found, key=lambda one: one[0])[1] if found else None


def _left_over(room: Mapping[str, int], whole: Mapping[str, int], needs: Mapping[str, int]) -> float:
    """Shares of its places that a node would have left, summed; nodes with GPUs are kept for who needs them."""
    return sum((room[name] - needs.get(name, 0)) / size for name, size in whole.items() if size)


def _take(room: dict[str, int], needs: Mapping[str, int]) -> None:
    for name, size in needs.items():
        room[name] = room.get(name, 0) - size
