"""What a model would take on this machine, how far it could be stretched, and who would have to leave. Loads
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from roundhouse.config import Settings, TargetSettings
from roundhouse.core.errors import ModelNotFound
from roundhouse.core.model import DeviceFacts, ModelFacts
from roundhouse.gateway.build import room_policy
from roundhouse.gateway.described import described
from roundhouse.gateway.plan import located, slots_of, window_of
from roundhouse.gateway.ways import needs, ways_of
from roundhouse.resources import hardware
from roundhouse.resources.learned import Learned
from roundhouse.resources.memory import Estimate, LlamaCppSettings, estimate
from roundhouse.resources.placement import Decision, Option, Place, Resident, place, room_in
from roundhouse.routing.way import Way
from roundhouse.store.hub_models import is_hub_name

__all__ = ["Prospect", "Running", "prospect", "would_fit"]

_STEP_TOKENS = 256
_SHORT_TOKENS = 4096
_MOST_SLOTS = 256


@dataclass(frozen=True, slots=True)
class Running:
    """What a running server has loaded. `taken`: by place, what its engines hold by the system's account."""

    residents: Sequence[Resident] = ()
    taken: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prospect:
    """`context` and `slots` as asked; the largest of each that fit the processor's memory while the other stays, 0 =
    none does. `way` is what would be done, None = it does not fit; `leave` who would have to go for it. `before` is
    what such a load took earlier, by place.
    """

    backend: str
    path: str
    facts: ModelFacts
    context: int
    slots: int
    needs: Estimate
    room: Mapping[str, int]
    largest_context: int
    most_slots: int
    way: Way | None
    leave: tuple[str, ...] = ()
    before: Mapping[str, int] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        return self.way is not None


def prospect(
    model: str,
    settings: Settings,
    *,
    context: int = 0,
    slots: int = 0,
    device: str = "",
    running: Running | None = None,
    learned: Learned | None = None,
) -> Prospect:
    """For a target of the configuration, `demo`, a GGUF file, a folder of safetensors or a name on the hub; what is
    unset is the target's.

    `device`: plan for this place alone, as `doctor` names it. Raises `ModelNotFound` for a name that is none of these
    or whose memory is not ours to plan, `BadHeader` for a file that cannot be read.
    """
    entry = _entry(model, settings, context, slots)
    if entry.endpoint or entry.type not in ("llamacpp", "huggingface"):
        raise ModelNotFound(f'target "{model}" is run by {entry.type}, which plans its own memory', model=model)
    facts, path = _facts(entry, settings)
    devices = _devices(device)
    ways = ways_of(entry, settings, devices)
    if context or slots:  # asked for, so nothing smaller is an answer
        ways = [
            way for way in ways if way.spawn == ways[0].spawn or way.option.needs.keys() != ways[0].option.needs.keys()
        ]
    running = running or Running()
    room = _room(settings, devices, running)
    decision = place([_raised(way, learned) for way in ways], running.residents, room)
    takes = needs(entry, facts)
    context, slots = window_of(entry, facts), slots_of(entry)
    free = room.get("cpu", 0)
    steps = _largest(-(-facts.context // _STEP_TOKENS), lambda step: takes(step * _STEP_TOKENS, slots).total <= free)
    known_load = learned[ways[0].key] if learned is not None else None
    return Prospect(
        backend=entry.type,
        path=str(path),
        facts=facts,
        context=context,
        slots=slots,
        needs=takes(context, slots),
        room=room,
        largest_context=min(facts.context, steps * _STEP_TOKENS),
        most_slots=_largest(_MOST_SLOTS, lambda count: takes(context, count).total <= free),
        way=_chosen(ways, decision),
        leave=decision.leave if isinstance(decision, Place) else (),
        before=known_load.taken if known_load is not None else {},
    )


def would_fit(facts: ModelFacts | None, settings: Settings) -> bool | None:
    """Whether this machine could hold such a model with one short conversation at a time, nothing else being loaded.

    None = too little is known of the model.
    """
    if facts is None:
        return None
    room = _room(settings, _devices(""), Running())
    takes = estimate(facts, LlamaCppSettings(n_ctx=min(_SHORT_TOKENS, facts.context), n_parallel=1))
    return takes.total <= max(room.values(), default=0)


def _facts(entry: TargetSettings, settings: Settings) -> tuple[ModelFacts, Path]:
    path = located(entry, settings)
    if not path.exists() and (entry.type == "llamacpp" or not is_hub_name(entry.model)):
        raise ModelNotFound(_absent(entry.name, path, settings), model=entry.name)
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelNotFound(f"{path} is no folder of a model: it has no config.json", model=entry.name)
    found = described(entry, settings)
    if found.facts is None:
        raise ModelNotFound(f'"{entry.name}": {found.note}', model=entry.name)
    return found.facts, found.path


def _absent(name: str, path: Path, settings: Settings) -> str:
    if any(target.name == name for target in settings.targets):
        return f'target "{name}": there is no model file {path}; check `model` in {settings.source}'
    known = ", ".join(target.name for target in settings.targets) or "none are configured"
    return (
        f'there is no "{name}": it is no target ({known}), no model that `roundhouse models list` names, '
        "and no file or folder here"
    )


def _entry(model: str, settings: Settings, context: int, slots: int) -> TargetSettings:
    path = Path(model).expanduser()
    remote = not path.exists() and "/" in model and is_hub_name(model)
    kind = "huggingface" if path.is_dir() or remote else "llamacpp"
    bare = TargetSettings(name=model, type=kind, model=model)
    entry = next((target for target in settings.targets if target.name == model), bare)
    asked = {name: value for name, value in (("n_ctx", context), ("n_parallel", slots)) if value}
    return replace(entry, options={**entry.options, **asked})


def _devices(device: str) -> list[DeviceFacts]:
    found = list(hardware.devices())
    chosen = [one for one in found if not device or one.place in ("cpu", device)]
    if device and device not in {one.place for one in found}:
        names = ", ".join(one.place for one in found)
        raise ModelNotFound(f'there is no device "{device}"; there are {names}', model=device)
    return chosen


def _room(settings: Settings, devices: Sequence[DeviceFacts], running: Running) -> dict[str, int]:
    held: dict[str, int] = {}
    for one in running.residents:
        for name, size in one.held.items():
            held[name] = held.get(name, 0) + size
    policy = room_policy(settings)
    free = {one.place: one.free_bytes for one in devices}
    return room_in(free, running.taken, held, fraction=policy.fraction, cap=policy.cap_bytes)


def _raised(way: Way, learned: Learned | None) -> Option:
    if learned is None:
        return way.option
    return replace(way.option, needs=learned.raised(way.key, way.option.needs))


def _chosen(ways: Sequence[Way], decision: Decision) -> Way | None:
    return ways[decision.option] if isinstance(decision, Place) else None


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` that fits, if smaller ones fit too; 0 = none."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
