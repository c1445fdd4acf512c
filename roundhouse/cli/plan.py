"""`roundhouse plan`: would a model fit, before anything is loaded."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

from roundhouse.cli.common import ConfigOption, JSONOption, print_json, server_state, settings_of
from roundhouse.cli.plan_cluster import show_cluster
from roundhouse.core.errors import ConnectFailed
from roundhouse.gateway.prospect import Prospect, Running, prospect
from roundhouse.resources.learned import Learned
from roundhouse.resources.placement import Resident

__all__ = ["plan"]

_PARTS = {
    "weights": "weights",
    "kv_cache": "cache of keys and values",
    "recurrent_state": "recurrent state",
    "compute": "compute buffers",
    "output": "logits",
    "checkpoints": "context checkpoints",
    "prompt_cache": "prompt cache",
    "runtime": "engine itself",
    "companions": "draft model, adapters",
}


def plan(
    model: Annotated[str, typer.Argument(help="A target, `demo`, a GGUF file, or a folder of safetensors.")] = "",
    context: Annotated[
        int, typer.Option("--ctx", min=0, help="Window of one request, in tokens; 0 = the model's.")
    ] = 0,
    slots: Annotated[int, typer.Option("--parallel", min=0, help="Requests at once; 0 = the default.")] = 0,
    device: Annotated[str, typer.Option(help="Plan for this place alone: cpu, cuda0; default: the best.")] = "",
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="Plan for the nodes and models of this file (docs/cluster.md).")
    ] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Memory that a model would take on this machine, part by part, beside what a running server has loaded.

    With --cluster: what fits where in a cluster, how many replicas an expected rate takes, what a dead node costs.
    Exit code 1 if it does not fit.
    """
    if bool(model) == bool(cluster):
        raise typer.BadParameter("give either a MODEL, or a cluster with --cluster FILE")
    if cluster and (context or slots or device):
        raise typer.BadParameter("--ctx, --parallel and --device are of one MODEL; a cluster's file says them itself")
    settings = settings_of(config)
    if cluster:
        if not show_cluster(cluster, settings, as_json=as_json):
            sys.exit(1)
        return
    running = _running(f"http://{settings.server.host}:{settings.server.port}")
    learned = Learned(platformdirs.user_state_path("roundhouse") / "loads.json")
    found = prospect(model, settings, context=context, slots=slots, device=device, running=running, learned=learned)
    if as_json:
        print_json(_as_dict(found))
    else:
        _show(found)
    if not found.fits:
        sys.exit(1)


def _running(root: str) -> Running | None:
    """What a server of this configuration has loaded; None if none runs."""
    try:
        state = server_state(root, limit_s=1.0)
        models = state["memory"]["models"]
        rows = {row["replica"]: row for row in state["replicas"] if row["replica"] in models}
    except (ConnectFailed, KeyError):
        return None
    taken: dict[str, int] = {}
    for told in models.values():
        for name, size in told["taken_bytes"].items():
            taken[name] = taken.get(name, 0) + size
    residents = [
        Resident(key, models[key]["promised_bytes"], busy=row["busy"] > 0, kept=row["pin"]) for key, row in rows.items()
    ]
    return Running(residents, taken)


def _show(found: Prospect) -> None:
    facts = found.facts
    print(f"{found.path}: {facts.architecture}, {facts.layers} layers, {facts.quantisation}, by {found.backend}")
    print(f"{found.slots} at once, {found.context:,} tokens each (trained for {facts.context:,})\n")
    for name, said in _PARTS.items():
        if size := getattr(found.needs, name):
            print(f"  {said:<26}{_mib(size)}")
    print(f"  {'together':<26}{_mib(found.needs.total)}")
    for name, size in found.before.items():
        print(f"  {f'took before, on {name}':<26}{_mib(size)}")
    for name, size in found.room.items():
        print(f"  {f'may be used on {name}':<26}{_mib(size)}")
    print()
    print(_verdict(found))
    print(f"largest window with {found.slots} at once: {found.largest_context:,} tokens")
    print(f"most at once with {found.context:,} tokens each: {found.most_slots}")


def _verdict(found: Prospect) -> str:
    if found.way is None:
        return "it does not fit"
    places = ", ".join(found.way.option.needs) or "cpu"
    said = f"it fits on {places}" + (f" ({found.way.note})" if found.way.note else "")
    return said + (f", once {', '.join(found.leave)} has left" if found.leave else "")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):10,.1f} MiB"


def _as_dict(found: Prospect) -> dict[str, Any]:
    return {
        "backend": found.backend,
        "path": found.path,
        "architecture": found.facts.architecture,
        "context": found.context,
        "slots": found.slots,
        "needs_bytes": {**asdict(found.needs), "total": found.needs.total},
        "free_bytes": found.room.get("cpu", 0),
        "room_bytes": dict(found.room),
        "taken_before_bytes": dict(found.before),
        "fits": found.fits,
        "where": dict(found.way.option.needs) if found.way else {},
        "note": found.way.note if found.way else "",
        "leave": list(found.leave),
        "largest_context": found.largest_context,
        "most_slots": found.most_slots,
    }
