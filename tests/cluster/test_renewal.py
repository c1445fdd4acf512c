"""What of a new configuration a running cluster takes over."""

from dataclasses import replace

from roundhouse.cluster.renewal import as_told, leading, taken_over
from roundhouse.config import Settings, load_mapping
from roundhouse.gateway.reload import compare

TARGET = {"type": "llamacpp", "name": "a", "model": "demo"}


def test_what_applications_are_named_by_and_what_serve_was_started_with_wait_for_the_next_start() -> None:
    old = load_mapping({"llm": {"providers": [TARGET]}, "limits": {"load": 60, "queue": 5}})
    new = load_mapping(
        {
            "llm": {"providers": [TARGET]},
            "limits": {"load": 90, "queue": 7},
            "resources": {"memory_mib": 900},
            "server": {"hosts": ["a.example"], "drain": 3, "connections": 9, "port": 1},
            "auth": {"keys": [{"name": "a", "key": "x" * 20}]},
        }
    )
    serving = taken_over(old, new)
    assert serving == replace(new, limits=replace(new.limits, load_s=60.0), resources=old.resources, origins={})
    told = as_told(compare(old, old.targets, new), old, new)
    assert told.renewed == ("server.hosts", "auth")
    assert set(told.later) == {"server.port", "server.connections", "server.drain", "limits.load", "resources"}
    again = as_told(compare(serving, serving.targets, new), serving, new)
    assert again.later == ("limits.load", "resources")


def test_a_switched_route_stays_switched_unless_it_is_configured_anew_or_its_target_is_gone() -> None:
    def settings(targets: str, **routes: list[str]) -> Settings:
        return load_mapping({"llm": {"providers": [{**TARGET, "name": one} for one in targets]}, "routes": routes})

    before = settings("abc", x=["a"], y=["a"], z=["a"])
    led = {"x": (("b",),), "y": (("b",),), "z": (("c",),)}
    told = leading(before, led, settings("ab", x=["a"], y=["a", "b"], z=["a"], new=["b"]))
    assert {name: told[name] for name in ("x", "y", "z", "new", "b")} == {
        "x": (("b",),),
        "y": (("a",), ("b",)),
        "z": (("a",),),
        "new": (("b",),),
        "b": (("b",),),
    }
