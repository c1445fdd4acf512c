"""Replicas over nodes: nothing twice, siblings apart, a dead node's replicas elsewhere where there is room."""

from hypothesis import given
from hypothesis import strategies as st

from roundhouse.resources.cluster import Cluster, Demand, NodeFacts, after_loss, assign
from roundhouse.resources.placement import Option

sizes = st.integers(0, 40)
nodes_st = st.lists(
    st.tuples(sizes, sizes).map(lambda room: {"cpu": room[0], "cuda0": room[1]}), min_size=1, max_size=4
).map(lambda rooms: [NodeFacts(f"n{number}", "k", room) for number, room in enumerate(rooms)])
demands_st = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 20), st.booleans()), min_size=1, max_size=4).map(
    lambda found: [
        Demand(f"m{number}", count, {"k": [Option({"cuda0" if gpu else "cpu": size}), Option({"cpu": size}, True)]})
        for number, (count, size, gpu) in enumerate(found)
    ]
)


def _within(cluster: Cluster, nodes: list[NodeFacts]) -> bool:
    return all(
        sum(one.needs.get(place, 0) for one in cluster.on(node.name)) <= size
        for node in nodes
        for place, size in node.room.items()
    )


@given(nodes_st, demands_st)
def test_no_place_is_given_twice_and_no_replica_is_forgotten(nodes: list[NodeFacts], demands: list[Demand]) -> None:
    """Also after any node has died; who lives on is not moved."""
    cluster = assign(nodes, demands)
    assert _within(cluster, nodes)
    for demand in demands:
        assert cluster.count(demand.model) + cluster.missing.get(demand.model, 0) == demand.replicas
    for node in nodes:
        after = after_loss(node.name, nodes, demands, cluster)
        assert _within(after, nodes)
        assert not after.on(node.name)
        assert set(_kept(cluster, node.name)) <= {_known(one) for one in after.placed}


def _kept(cluster: Cluster, lost: str) -> list[tuple[str, str, int]]:
    return [_known(one) for one in cluster.placed if one.node != lost]


def _known(one: object) -> tuple[str, str, int]:
    return one.model, one.node, one.option  # type: ignore[attr-defined]


def test_siblings_go_to_different_nodes() -> None:
    nodes = [NodeFacts(name, "k", {"cpu": 10}) for name in ("a", "b", "c")]
    cluster = assign(nodes, [Demand("m", 3, {"k": [Option({"cpu": 3})]})])
    assert sorted(one.node for one in cluster.placed) == ["a", "b", "c"]


def test_every_model_has_one_replica_before_any_has_two() -> None:
    nodes = [NodeFacts("a", "k", {"cpu": 10})]
    demands = [Demand("big", 3, {"k": [Option({"cpu": 5})]}), Demand("small", 1, {"k": [Option({"cpu": 4})]})]
    cluster = assign(nodes, demands)
    assert (cluster.count("big"), cluster.count("small"), cluster.missing) == (1, 1, {"big": 2})


def test_nodes_with_gpus_are_left_to_who_needs_them() -> None:
    nodes = [NodeFacts("gpu", "g", {"cpu": 10, "cuda0": 10}), NodeFacts("plain", "p", {"cpu": 10})]
    light = Demand("light", 1, {kind: [Option({"cpu": 4})] for kind in ("g", "p")})
    heavy = Demand("heavy", 1, {"g": [Option({"cpu": 8, "cuda0": 8})], "p": []})
    assert {one.model: one.node for one in assign(nodes, [light, heavy]).placed} == {"light": "plain", "heavy": "gpu"}
