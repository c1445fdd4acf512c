"""The house as it stands, as plain values: for operators, the page and `ps`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roundhouse.routing.manager import Manager

__all__ = ["describe"]


def describe(manager: Manager) -> dict[str, Any]:
    """Replicas, routes, memory, switches; what runs and what waits. Sizes in bytes, times in seconds."""
    now = manager.clock()
    memory = manager.room.state()
    replicas = [
        {
            "target": target.name,
            "replica": replica.key,
            "model": target.model,
            "engine": replica.engine.state.name.lower() if replica.engine.managed else "attached",
            "pid": replica.engine.pid,
            "loaded": memory["models"].get(replica.key, {}).get("loaded"),
            "busy": replica.busy,
            "slots": replica.slots,
            "active": replica in target.active,
            "pin": replica.pin,
            "breaker": replica.standing.breaker.state.name.lower(),
            "objection": replica.objection(now),
            "notes": list(replica.notes),
            "tokens_per_s": round(replica.speed, 1),
        }
        for target in manager.targets.values()
        for replica in target.replicas
    ]
    routes = {
        name: {
            "targets": [list(tier) for tier in route.tiers],
            "held": route.held,
            "canary": round(route.canary.percent, 1) if route.canary else None,
        }
        for name, route in manager.routes.items()
        if name not in manager.targets
    }
    return {
        "active": manager.active,
        "waiting": len(manager.admission.waiting),
        "replicas": replicas,
        "routes": routes,
        "memory": memory,
        "switches": [switch.as_dict() for switch in reversed(manager.turntable.switches.values())],
    }
