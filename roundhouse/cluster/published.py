"""What the owner tells all entrances, and what they tell it; who has heard what, and who still uses what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from roundhouse.cluster.questions import Question
from roundhouse.routing.canary import Arm

__all__ = ["CanaryTold", "Followers", "Published", "Report", "Seen"]

# An entrance that has not been heard of for so long is gone; it calls several times as often.
_GONE_S = 15.0


class CanaryTold(msgspec.Struct, frozen=True):
    """A share of a route's requests goes to `trial` first; `slow_s` as of `Canary`. `switch`: whose canary it is."""

    switch: str
    percent: float
    for_s: float
    slow_s: float
    trial: tuple[tuple[str, ...], ...]


class Published(msgspec.Struct, frozen=True):
    """Where requests go. `routes` are those of the configuration, `held` why some wait, `applications` those that run,
    by target. `settings` is the number of the configuration that goes with it, 0 = what the service was started with.
    """

    version: int
    routes: Mapping[str, tuple[tuple[str, ...], ...]] = {}
    held: Mapping[str, str] = {}
    canaries: Mapping[str, CanaryTold] = {}
    applications: Mapping[str, str] = {}
    settings: int = 0

    def same(self, other: Published) -> bool:
        """Whether they say the same, whatever their versions."""
        return msgspec.structs.replace(self, version=0) == msgspec.structs.replace(other, version=0)


class Seen(msgspec.Struct, frozen=True):
    """What a request showed of the arm of a canary."""

    switch: str
    arm: Arm
    failed: bool
    first_token_s: float


class Report(msgspec.Struct, frozen=True):
    """What an entrance tells as it asks for news: the version it goes by, how many requests each application has of
    it, and what they showed since the last time. `first_tokens_s` by target.
    """

    entrance: str
    version: int = 0
    uses: Mapping[str, int] = {}
    running: int = 0
    waiting: int = 0
    seen: tuple[Seen, ...] = ()
    first_tokens_s: Mapping[str, tuple[float, ...]] = {}


class News(msgspec.Struct, frozen=True):
    """The answer: what is published, how the cluster stands, in how many seconds at most to ask again, and what this
    entrance is to tell.
    """

    published: Published
    state: Mapping[str, Any]
    within_s: float
    questions: tuple[Question, ...] = ()


@dataclass(slots=True)
class Followers:
    """The entrances, as they reported last."""

    reports: dict[str, tuple[Report, float]] = field(default_factory=dict)

    def heard(self, report: Report, now: float) -> None:
        self.reports[report.entrance] = (report, now)

    def living(self, now: float) -> Iterable[Report]:
        """Forgets those that have not been heard of for long: what they had under way has ended with them."""
        for name, (_, at) in list(self.reports.items()):
            if now - at > _GONE_S:
                del self.reports[name]
        return [report for report, _ in self.reports.values()]

    def uses(self, application: str, now: float) -> int:
        return sum(report.uses.get(application, 0) for report in self.living(now))

    def go_by(self, version: int, now: float) -> bool:
        """Whether every entrance goes by `version`, or a later one."""
        return all(one.version >= version for one in self.living(now))

    def free_of(self, application: str, version: int, now: float) -> bool:
        """Whether every entrance goes by `version` and has no request with `application` any more."""
        return self.go_by(version, now) and not self.uses(application, now)
