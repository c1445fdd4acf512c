"""`roundhouse plan`: would a model fit, before anything is loaded."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from roundhouse.cli.common import ConfigOption, JSONOption, print_json, settings_of
from roundhouse.gateway.prospect import Prospect, prospect

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
}


def plan(
    model: Annotated[str, typer.Argument(help="A target, `demo`, a GGUF file, or a folder of safetensors.")],
    context: Annotated[
        int, typer.Option("--ctx", min=0, help="Window of one request, in tokens; 0 = the model's.")
    ] = 0,
    slots: Annotated[int, typer.Option("--parallel", min=0, help="Requests at once; 0 = the default.")] = 0,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Memory that a model would take on this machine's processor, part by part. Exit code 1 if it does not fit."""
    found = prospect(model, settings_of(config), context=context, slots=slots)
    if as_json:
        print_json(_as_dict(found))
    else:
        _show(found)
    if not found.fits:
        sys.exit(1)


def _show(found: Prospect) -> None:
    facts = found.facts
    print(f"{found.path}: {facts.architecture}, {facts.layers} layers, {facts.quantisation}, by {found.backend}")
    print(f"{found.slots} at once, {found.context:,} tokens each (trained for {facts.context:,})\n")
    for name, said in _PARTS.items():
        if size := getattr(found.needs, name):
            print(f"  {said:<26}{_mib(size)}")
    print(f"  {'together':<26}{_mib(found.needs.total)}")
    print(f"  {'may be used':<26}{_mib(found.free_bytes)}\n")
    print("it fits" if found.fits else "it does not fit")
    print(f"largest window with {found.slots} at once: {found.largest_context:,} tokens")
    print(f"most at once with {found.context:,} tokens each: {found.most_slots}")


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
        "free_bytes": found.free_bytes,
        "fits": found.fits,
        "largest_context": found.largest_context,
        "most_slots": found.most_slots,
    }
