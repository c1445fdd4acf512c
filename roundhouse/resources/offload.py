"""What a model takes of each place when llama.cpp keeps some of its layers on GPUs. Pure; sizes in bytes.

Sources: llama.cpp src/llama-model.cpp (`load_tensors`): with n layers on GPUs, the last n of layers and output go
there;
the token embedding stays on the processor; a tied output is a copy of its own. Every device has its own compute buffer
(src/llama-context.cpp, `sched_reserve`). The context that CUDA keeps for a process is an estimate: it was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from roundhouse.core.model import ModelFacts
from roundhouse.resources.memory import Estimate, LlamaCppSettings, estimate

__all__ = ["CUDA_CONTEXT_BYTES", "layers_that_fit", "offloaded"]

CUDA_CONTEXT_BYTES = 400 << 20


def offloaded(facts: ModelFacts, settings: LlamaCppSettings, gpu_layers: int, gpus: Sequence[str]) -> dict[str, int]:
    """Bytes by place with `gpu_layers` of `facts.layers + 1` (the output counts as one) spread evenly over `gpus`."""
    # Matrices on a GPU are used as they are; only the processor's are copied into another order.
    whole = estimate(facts, replace(settings, repack=False))
    if gpu_layers <= 0 or not gpus:
        return {"cpu": estimate(facts, settings).total}
    shares = _layer_bytes(facts, whole)
    output = facts.output_bytes or facts.embedding_bytes
    on_gpu = [*shares, output][-gpu_layers:]
    kept = sum(on_gpu)
    taken = {"cpu": whole.total - kept + (facts.embedding_bytes if facts.tied_embeddings and gpu_layers else 0)}
    per_gpu = -(-len(on_gpu) // len(gpus))
    for number, name in enumerate(gpus):
        part = on_gpu[number * per_gpu : (number + 1) * per_gpu]
        if part:
            taken[name] = sum(part) + whole.compute + CUDA_CONTEXT_BYTES
    return taken


def layers_that_fit(facts: ModelFacts, settings: LlamaCppSettings, gpu: str, room_bytes: int) -> int:
    """The most layers that one GPU takes; 0 = none."""
    fitting = [
        layers
        for layers in range(1, facts.layers + 2)
        if offloaded(facts, settings, layers, (gpu,)).get(gpu, 0) <= room_bytes
    ]
    return max(fitting, default=0)


def _layer_bytes(facts: ModelFacts, whole: Estimate) -> list[int]:
    """Weights, cache and state of each layer; both caches divided by the layers that have one."""
    cached = [bool(heads) for heads in facts.kv_heads] or [True] * facts.layers
    cache = whole.kv_cache // max(1, sum(cached))
    state = whole.recurrent_state // max(1, sum(facts.recurrent))
    recurrent = facts.recurrent or (False,) * facts.layers
    weights = facts.layer_bytes or (facts.weight_bytes // max(1, facts.layers),) * facts.layers
    return [
        size + (cache if has else 0) + (state if is_recurrent else 0)
        for size, has, is_recurrent in zip(weights, cached, recurrent, strict=True)
    ]
