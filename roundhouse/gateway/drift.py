"""Watches every target for having become slower or worse, warns of it, and acts if it was told to."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from roundhouse.config import DriftSettings, Settings
from roundhouse.core.errors import Error, ModelNotFound
from roundhouse.core.files import write_atomically
from roundhouse.gateway.webhook import Webhook
from roundhouse.routing.manager import Manager
from roundhouse.routing.switch import Order, Switch, SwitchState
from roundhouse.telemetry.drift import ERROR, TPOT, TTFT, Baseline, Change, DriftState, Rule, Series
from roundhouse.telemetry.events import CALLERS_OWN, OK, Drifted, Event, RequestEnded, Tell

__all__ = ["Drifts", "baselines_path"]

log = logging.getLogger(__name__)
_VERSION = 2
_COLD_S = 0.5
_REMEMBERED = 20_000  # answers whose feedback can still be told


def baselines_path() -> Path:
    return platformdirs.user_state_path("roundhouse") / "baselines.json"


class Kept(msgspec.Struct):
    """The baselines of one target, by metric; `identity`: of what it was when they were learned."""

    identity: str
    series: dict[str, Baseline]


class _File(msgspec.Struct):
    version: int
    targets: dict[str, Kept]


class Drifts:
    """Belongs to one event loop. `tell` is called with `Drifted` when a target drifts or is as before again.

    What is usual for a target is learned from its own first requests, kept in `path` for the next start, and learned
    anew when its entry in the configuration changes. Requests that end at nearly the same time are slow for one and the
    same reason, which the test must not take for many: of those, one is heard.
    """

    def __init__(
        self, settings: Settings, manager: Manager, tell: Tell, path: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._manager = manager
        self._tell = tell
        self._path = path
        self._clock = clock
        self._targets: dict[str, dict[str, Series]] = {}
        self._identities: dict[str, str] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._done: dict[str, str] = {}
        self._answered: OrderedDict[str, str] = OrderedDict()
        self._deaf_until: dict[str, float] = {}
        self._again: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._writing = asyncio.Lock()
        self._kept = _read(path)
        self._unwritten = False
        self._settings = DriftSettings()
        self._rule = Rule()
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Watch by these settings from now on; a target whose entry is another is learned anew."""
        self._settings = settings.telemetry.drift
        self._rule = Rule(self._settings.baseline, self._settings.slower, self._settings.false_alarm)
        self._webhook = Webhook(self._settings.webhook) if self._settings.webhook else None
        identities = {entry.name: _identity(entry, self._rule) for entry in settings.targets}
        for name, known in self._identities.items():
            if identities.get(name) != known or not self._settings.enabled:
                self._forget(name)
        self._identities = identities

    async def aclose(self) -> None:
        for timer in self._again.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._unwritten:
            await self._write()

    def record(self, event: Event) -> None:
        """One request more; other events are none of ours. Never raises."""
        if not self._settings.enabled or not isinstance(event, RequestEnded):
            return
        answered = event.target if event.outcome == OK else ""
        if answered and self._settings.quality:
            self._answered[event.request_id] = answered
            if len(self._answered) > _REMEMBERED:
                self._answered.popitem(last=False)
        failed = [target for target, code in event.failed if code not in CALLERS_OWN]
        heard = self._heard({answered, *failed})
        for target in failed:
            if target in heard:
                self._add(target, ERROR, 1.0)
        if not answered or answered not in heard:
            return
        self._add(answered, ERROR, 0.0)
        if event.failed or event.seams or event.load_s > _COLD_S:
            return  # its times are not the target's own, or those of an engine that has just begun
        if event.first_token_s is not None:
            read = max(0, event.input_tokens - event.cached_tokens)
            self._add(answered, TTFT, event.first_token_s - event.queue_s - event.load_s, read, read)
        if event.per_token_s is not None:
            # Few tokens make an uneven mean; each looks back on the prompt and on half of the answer.
            back = event.input_tokens + event.output_tokens / 2
            self._add(answered, TPOT, event.per_token_s, back, event.output_tokens)

    def _heard(self, targets: set[str]) -> set[str]:
        """Those of them of whom none was heard just now: whose attempts at one request are heard, all are."""
        now = self._manager.clock()
        heard = {target for target in targets if now >= self._deaf_until.get(target, 0.0)}
        self._deaf_until.update(dict.fromkeys(heard, now + self._settings.apart_s))
        return heard

    def feedback(self, request_id: str, metric: str, value: float) -> bool:
        """A score of an answer; False if the metric is not watched, or the request not remembered."""
        target = self._answered.get(request_id) if metric in self._settings.quality else None
        if target is None:
            return False
        self._add(target, metric, value)
        return True

    def relearn(self, target: str) -> None:
        """Take what the target does from now on for usual. Raises `ModelNotFound` for a name that is none."""
        if target not in self._identities:
            raise ModelNotFound(f'there is no target "{target}"; there are {", ".join(self._identities)}', model=target)
        for series in self._targets.get(target, {}).values():
            if series.state is DriftState.DRIFTED:
                self._as_before(target, series, "its usual is learned anew")
            series.forget()
        self._restore(target)
        self._kept.pop(target, None)
        self._unwritten = True
        self._run(self._write())

    def standing(self) -> list[dict[str, Any]]:
        """Every series as it stands, for an operator; times in seconds."""
        return [
            {
                "target": target,
                "metric": metric,
                "state": series.state.value,
                "learned_of": series.learned_of,
                "usual": series.usual,
                "now": series.now,
                "since": self._since.get((target, metric)),
                "done": self._done.get(target, "") if series.state is DriftState.DRIFTED else "",
                "said": _worse(target, series) if series.state is DriftState.DRIFTED else "",
            }
            for target, all_ in sorted(self._targets.items())
            for metric, series in sorted(all_.items())
        ]

    def _add(self, target: str, metric: str, value: float, length: float = 0.0, size: float = 0.0) -> None:
        if target not in self._identities:  # it was removed meanwhile
            return
        all_ = self._targets.setdefault(target, {})
        series = all_.get(metric)
        if series is None:
            series = all_[metric] = Series(metric, self._rule, self._known(target, metric))
        change = series.add(value, length, size)
        if change is Change.LEARNED:
            assert series.baseline is not None
            kept = self._kept.get(target)
            if kept is None or kept.identity != self._identities[target]:
                kept = self._kept[target] = Kept(self._identities[target], {})
            kept.series[metric] = series.baseline
            self._unwritten = True
            self._run(self._write())
        elif change is Change.DRIFTED:
            self._drifted(target, series)
        elif change is Change.RECOVERED:
            self._as_before(target, series, "it is as it was")
            if all(one.state is not DriftState.DRIFTED for one in self._targets[target].values()):
                self._restore(target)

    def _known(self, target: str, metric: str) -> Baseline | None:
        kept = self._kept.get(target)
        return kept.series.get(metric) if kept is not None and kept.identity == self._identities[target] else None

    def _drifted(self, target: str, series: Series) -> None:
        self._since[target, series.metric] = self._clock()
        done = self._act(target)
        if done:
            self._done[target] = done
        said = f"{_worse(target, series)}{'; ' + done if done else ''}"
        log.warning("%s", said)
        self._report(Drifted(target, series.metric, True, series.usual or 0.0, series.now or 0.0), said)

    def _as_before(self, target: str, series: Series, why: str) -> None:
        self._since.pop((target, series.metric), None)
        said = f"{target}: no warning of {series.metric} any more: {why}"
        log.warning("%s", said)
        self._report(Drifted(target, series.metric, False, series.usual or 0.0, series.now or 0.0), said)

    def _report(self, event: Drifted, said: str) -> None:
        self._tell(event)
        if self._webhook is not None:
            body = {
                "event": "drift" if event.drifted else "recovery",
                "target": event.target,
                "metric": event.metric,
                "usual": event.usual,
                "now": event.now,
                "at": self._clock(),
                "text": said,
            }
            self._run(self._webhook.post(body))

    def _act(self, target: str) -> str:
        """What was done about it, in words; empty = nothing, for nothing is to be done or can be."""
        match self._settings.act:
            case "avoid":
                self._manager.avoid(target, True)
                if (timer := self._again.pop(target, None)) is not None:
                    timer.cancel()
                loop = asyncio.get_running_loop()
                self._again[target] = loop.call_later(self._settings.avoid_for_s, self._try_again, target)
                return f"others of its routes are asked first for {self._settings.avoid_for_s:g} s"
            case "roll_back":
                return self._roll_back(target)
        return ""

    def _try_again(self, target: str) -> None:
        for series in self._targets.get(target, {}).values():
            if series.state is DriftState.DRIFTED:
                series.begin_anew()
                self._as_before(target, series, "it is asked again")
        self._restore(target)

    def _forget(self, target: str) -> None:
        self._deaf_until.pop(target, None)
        for series in self._targets.pop(target, {}).values():
            if series.state is DriftState.DRIFTED:
                self._as_before(target, series, "it is another now, or not watched any more")
        self._restore(target)

    def _restore(self, target: str) -> None:
        if (timer := self._again.pop(target, None)) is not None:
            timer.cancel()
        self._manager.avoid(target, False)
        self._done.pop(target, None)

    def _roll_back(self, target: str) -> str:
        turntable = self._manager.turntable
        switch = next((one for one in reversed(turntable.switches.values()) if self._is_to(one, target)), None)
        if switch is None:
            return ""
        route = switch.routes[0].name
        try:
            back = turntable.switch(route, switch.former, Order())
        except Error as error:
            return f"switching {route} back to {switch.former} failed: {error}"
        return f"{route} is switched back to {switch.former} ({back.id})"

    def _is_to(self, switch: Switch, target: str) -> bool:
        """Whether this is a switch to the target, of late, that still stands and can be undone."""
        late = self._manager.clock() - switch.ended <= self._settings.roll_back_within_s
        leads = switch.former and switch.routes[0].targets[:1] == (target,)
        return bool(switch.state is SwitchState.DONE and switch.new.name == target and late and leads)

    def _run(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self) -> None:
        """It is advice: what cannot be written is learned again after the next start."""
        async with self._writing:
            data = msgspec.json.encode({"version": _VERSION, "targets": self._kept})
            try:
                self._unwritten = False
                await asyncio.to_thread(self._put, data)
            except OSError as error:
                log.warning("what is usual for targets cannot be kept in %s: %s", self._path, error)

    def _put(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, data)


def _identity(entry: Any, rule: Rule) -> str:
    """Of everything that an entry says, but for secrets, and of what its baseline was made by."""
    return hashlib.sha256(repr((entry, rule.slower, rule.baseline)).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Kept]:
    """A file that is missing, broken or of another version is the same as none."""
    try:
        body = msgspec.json.decode(path.read_bytes(), type=_File)
    except (OSError, ValueError):
        return {}
    return body.targets if body.version == _VERSION else {}


def _worse(target: str, series: Series) -> str:
    usual, now = series.usual or 0.0, series.now or 0.0
    if series.metric in (TTFT, TPOT):
        what = "first token" if series.metric == TTFT else "time per output token"
        if now <= usual:  # the middle is as it was
            return f"{target} is slow more often: {what} {_time(now)} in the median, but too many take far longer"
        return f"{target} has become slower: {what} {_time(now)}, usually {_time(usual)} at such lengths (medians)"
    if series.metric == ERROR:
        return f"{target} fails more often: {now:.0%} of its attempts, usually {usual:.0%}"
    return f"{target} has become worse: {series.metric} {now:.2f}, usually {usual:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
