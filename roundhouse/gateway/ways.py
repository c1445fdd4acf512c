"""The ways in which an entry of the configuration can be run on this machine, best first. Looks at its files.

What the user has set is kept. What is unset gives way where memory is short: first the window, down to 8192 tokens,
then requests at once, then the window again; on a machine with GPUs the processor comes last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roundhouse.config import Settings, TargetSettings
from roundhouse.core.model import DeviceFacts, ModelFacts
from roundhouse.engines import launch
from roundhouse.engines.offload import can_offload
from roundhouse.gateway.demo import DEMO_OPTIONS
from roundhouse.gateway.described import described
from roundhouse.gateway.plan import is_demo, located, slots_of, window_of
from roundhouse.resources import hardware
from roundhouse.resources.learned import load_key
from roundhouse.resources.memory import Estimate, LlamaCppSettings, companions, estimate
from roundhouse.resources.memory_transformers import GPU_BATCH_TOKENS, TransformersSettings, estimate_transformers
from roundhouse.resources.offload import CUDA_CONTEXT_BYTES, layers_that_fit, offloaded
from roundhouse.resources.placement import Option
from roundhouse.routing.way import Way
from roundhouse.store.headers import read_gguf

__all__ = ["needs", "ways_of"]

_COMFORTABLE_TOKENS = 8192
_LEAST_TOKENS = 2048
_VLLM_SHARE = 0.9  # gpu_memory_utilization, unless set


@dataclass(frozen=True, slots=True)
class _Size:
    """How far a model is stretched: tokens of one request, requests at once, and what was given up for it."""

    window: int
    slots: int
    compromise: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Seat:
    """Where: `gpus` by name, with so many of the model's layers, the output being one."""

    gpus: tuple[str, ...] = ()
    layers: int = 0
    compromise: bool = False
    note: str = ""


def ways_of(
    entry: TargetSettings, settings: Settings, devices: Sequence[DeviceFacts], *, elsewhere: bool = False
) -> list[Way]:
    """At least one. Raises `BadHeader` for files that cannot be read.

    `elsewhere`: the devices are another machine's, whose llama.cpp is taken to be built for them.
    """
    if entry.type == "llamacpp":
        return _llamacpp(entry, settings, devices, offloads=elsewhere or _offloads(entry, devices))
    by_type: Mapping[str, Callable[[TargetSettings, Settings, Sequence[DeviceFacts]], list[Way]]] = {
        "huggingface": _huggingface,
        "vllm": _vllm,
    }
    return by_type[entry.type](entry, settings, devices)


def needs(entry: TargetSettings, facts: ModelFacts) -> Callable[[int, int], Estimate]:
    """What a model takes on this processor by an entry's options, as a function of window and slots."""
    if entry.type == "huggingface":
        asked = TransformersSettings.of(entry.options, slots=1, cpu_flags=hardware.cpu_flags())
        return lambda window, slots: estimate_transformers(facts, replace(asked, n_ctx=window, slots=slots))
    wanted = LlamaCppSettings.of(launch.implied(entry.options))
    draft, adapter_bytes = _companions(entry)

    def takes(window: int, slots: int) -> Estimate:
        stretched = replace(wanted, n_ctx=window, n_parallel=slots)
        beside = companions(draft, adapter_bytes, stretched)
        return replace(estimate(facts, stretched), companions=beside)

    return takes


def _companions(entry: TargetSettings) -> tuple[ModelFacts | None, int]:
    """The draft model and the size of the adapters that are loaded beside a model. Raises `BadHeader`."""
    draft, adapters = entry.options.get("draft_model"), entry.options.get("lora", ())
    sizes = [Path(path).stat().st_size for path in adapters if Path(path).is_file()]
    return read_gguf(draft) if draft else None, sum(sizes)


def _offloads(entry: TargetSettings, devices: Sequence[DeviceFacts]) -> bool:
    """The build is asked only where the answer counts: it takes as long as starting it."""
    wanted = entry.options.get("n_gpu_layers") != 0 and any(one.kind == "cuda" for one in devices)
    return wanted and can_offload(entry.executable)


def _llamacpp(
    entry: TargetSettings, settings: Settings, devices: Sequence[DeviceFacts], *, offloads: bool
) -> list[Way]:
    path = located(entry, settings)
    facts = read_gguf(path)
    options = launch.implied({**DEMO_OPTIONS, **entry.options} if is_demo(entry) else entry.options)
    wanted, takes, ways = LlamaCppSettings.of(options), needs(entry, facts), []
    for seat in _seats(entry, facts, wanted, settings, devices, offloads=offloads):
        for size in _sizes(entry, facts):
            chosen = {**options, "n_ctx": size.window, "n_parallel": size.slots}
            if seat.gpus:
                chosen["n_gpu_layers"] = seat.layers
            spawn = launch.llamacpp(
                str(path),
                chosen,
                cores=hardware.usable_cores(),
                env={**_only(seat.gpus, devices), **entry.env},
                executable=entry.executable,
            )
            estimated = takes(size.window, size.slots)
            stretched = replace(wanted, n_ctx=size.window, n_parallel=size.slots)
            bytes_by_place = {"cpu": estimated.total}
            if seat.gpus:
                bytes_by_place = offloaded(facts, stretched, seat.layers, seat.gpus)
                bytes_by_place[seat.gpus[0]] += estimated.companions
            ways.append(_way(spawn, bytes_by_place, estimated, seat, size, load_key("llamacpp", path, chosen)))
    return ways


def _huggingface(entry: TargetSettings, settings: Settings, devices: Sequence[DeviceFacts]) -> list[Way]:
    """A model of the hub of which nothing can be known beforehand is loaded without a plan, which is said."""
    found, flags = described(entry, settings), hardware.cpu_flags()
    if (facts := found.facts) is None:
        spawn = launch.huggingface(
            found.model, entry.options, cores=hardware.usable_cores(), cpu_flags=flags, env=entry.env
        )
        return [Way(spawn, Option({}), note=found.note)]
    takes, ways = needs(entry, facts), []
    for seat in _torch_seats(entry, devices):
        for size in _sizes(entry, facts):
            chosen = {**entry.options, "n_ctx": size.window, "n_parallel": size.slots}
            if seat.gpus:
                chosen["device"] = "cuda"
            spawn = launch.huggingface(
                found.model,
                chosen,
                cores=hardware.usable_cores(),
                cpu_flags=flags,
                env={**_only(seat.gpus, devices), **entry.env},
            )
            if seat.gpus:
                asked = TransformersSettings.of({"dtype": "bfloat16", **entry.options}, slots=1, cpu_flags=flags)
                asked = replace(asked, n_ctx=size.window, slots=size.slots, batch_tokens=GPU_BATCH_TOKENS)
                estimated = estimate_transformers(facts, asked)
                on_gpu = estimated.total - estimated.runtime + CUDA_CONTEXT_BYTES
                bytes_by_place = {seat.gpus[0]: on_gpu, "cpu": estimated.runtime}
            else:
                estimated = takes(size.window, size.slots)
                bytes_by_place = {"cpu": estimated.total}
            ways.append(_way(spawn, bytes_by_place, estimated, seat, size, load_key("huggingface", found.path, chosen)))
    return ways


def _vllm(entry: TargetSettings, settings: Settings, devices: Sequence[DeviceFacts]) -> list[Way]:
    """vLLM takes its share of each GPU whatever the model; on a processor it is not known before."""
    path = located(entry, settings)
    model = str(path) if path.is_dir() else entry.model
    spawn = launch.vllm(model, entry.model, entry.options, executable=entry.executable, env=entry.env)
    share = float(entry.options.get("gpu_memory_utilization", _VLLM_SHARE))
    count = int(entry.options.get("tensor_parallel_size", 1))
    gpus = [device for device in devices if device.kind == "cuda"][:count]
    return [Way(spawn, Option({gpu.place: int(share * gpu.total_bytes) for gpu in gpus}))]


def _way(
    spawn: launch.Spawn, bytes_by_place: Mapping[str, int], estimated: Estimate, seat: _Seat, size: _Size, key: str
) -> Way:
    note = "; ".join(said for said in (seat.note, size.note) if said)
    option = Option(bytes_by_place, compromise=seat.compromise or size.compromise)
    return Way(spawn, option, estimated, note=note, key=key)


def _sizes(entry: TargetSettings, facts: ModelFacts) -> Iterator[_Size]:
    """As asked or as usual first; then smaller ones of what was not asked for."""
    usual, window = slots_of(entry), window_of(entry, facts)
    yield _Size(window, usual)
    windows = [window]
    if "n_ctx" not in entry.options:
        while windows[-1] > _LEAST_TOKENS:
            windows.append(max(_LEAST_TOKENS, windows[-1] // 2))
    fewer = [count for count in (2, 1) if count < usual] if "n_parallel" not in entry.options else []
    comfortable = [tokens for tokens in windows[1:] if tokens >= _COMFORTABLE_TOKENS]
    small = [tokens for tokens in windows[1:] if tokens < _COMFORTABLE_TOKENS]
    for tokens in comfortable:
        yield _Size(tokens, usual, note=_smaller(tokens, window, usual, usual))
    last = comfortable[-1] if comfortable else window
    for count in fewer:
        yield _Size(last, count, compromise=True, note=_smaller(last, window, count, usual))
    for tokens in small:
        count = fewer[-1] if fewer else usual
        yield _Size(tokens, count, compromise=True, note=_smaller(tokens, window, count, usual))


def _smaller(tokens: int, window: int, slots: int, usual: int) -> str:
    said = [f"its window is {tokens} tokens of the {window} it was trained for"] if tokens < window else []
    said += [f"it serves {slots} at once, where {usual} is usual"] if slots < usual else []
    return " and ".join(said) + ", for want of memory"


def _seats(
    entry: TargetSettings,
    facts: ModelFacts,
    wanted: LlamaCppSettings,
    settings: Settings,
    devices: Sequence[DeviceFacts],
    *,
    offloads: bool,
) -> list[_Seat]:
    """The freest GPU, another, all of them together, as many layers as one takes, the processor."""
    gpus = sorted((one for one in devices if one.kind == "cuda"), key=lambda one: -one.free_bytes)
    asked = entry.options.get("n_gpu_layers")
    if not gpus or asked == 0 or not offloads:
        unheeded = asked not in (None, 0) and bool(gpus)
        return [_Seat(note="this build of llama.cpp cannot use a GPU; it runs on the processor" if unheeded else "")]
    names, everything = tuple(one.place for one in gpus), facts.layers + 1
    if asked is not None and asked > 0:
        return [_Seat(names[:1], min(asked, everything))]
    seats = [_Seat((name,), everything) for name in names]
    together = tuple(one.place for one in gpus if one.whole)
    if len(together) > 1:
        seats.append(_Seat(together, everything))
    if asked is None:
        for size in (gpus[0].total_bytes, gpus[0].free_bytes):
            layers = layers_that_fit(facts, wanted, names[0], int(size * settings.resources.memory_fraction))
            if 0 < layers < everything:
                note = f"{layers} of {everything} layers are on the GPU, for want of its memory"
                seats.append(_Seat(names[:1], layers, compromise=True, note=note))
        seats.append(_Seat(compromise=True, note="it runs on the processor, for want of memory on a GPU"))
    return seats


def _torch_seats(entry: TargetSettings, devices: Sequence[DeviceFacts]) -> list[_Seat]:
    asked = str(entry.options.get("device", ""))
    gpus = [one for one in devices if one.kind == "cuda"]
    if asked.startswith("cuda:"):
        return [_Seat((f"cuda{asked.removeprefix('cuda:')}",))]
    if not gpus or (asked and asked != "cuda"):
        return [_Seat()]
    seats = [_Seat((one.place,)) for one in sorted(gpus, key=lambda one: -one.free_bytes)]
    if asked != "cuda":
        seats.append(_Seat(compromise=True, note="it runs on the processor, for want of memory on a GPU"))
    return seats


def _only(gpus: Sequence[str], devices: Sequence[DeviceFacts]) -> dict[str, str]:
    """The environment in which a child sees these GPUs alone.

    By their UUIDs, for CUDA counts the fastest first and the driver by their place on the bus; where those are not
    told, by the names that our own environment has for them.
    """
    if not gpus:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else []
    chosen = [one for place in gpus for one in devices if one.place == place]
    if len(chosen) < len(gpus):  # a number that the driver did not show
        return {"CUDA_VISIBLE_DEVICES": ",".join(_named(int(place.removeprefix("cuda")), names) for place in gpus)}
    return {"CUDA_VISIBLE_DEVICES": ",".join(one.uuid or _named(one.index, names) for one in chosen)}


def _named(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)
