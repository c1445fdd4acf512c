"""Beginning and ending experiments, by a command or through a running server. Blocks for the time of a small write."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing

from roundhouse.core.errors import InvalidRequest
from roundhouse.database import Place
from roundhouse.experiments.design import Experiment
from roundhouse.experiments.store import Run, Store
from roundhouse.prompts.variables import nearest

__all__ = ["begin", "design_of", "end"]


def design_of(designs: Mapping[str, Experiment], name: str) -> Experiment:
    """Raises `InvalidRequest` for a name that the configuration does not have."""
    if name not in designs:
        said = f'there is no experiment "{name}"{nearest(name, designs)}' if designs else "there are no experiments"
        raise InvalidRequest(f"{said}; they are declared under `experiments` in the configuration", param="experiment")
    return designs[name]


def begin(place: Place, designs: Mapping[str, Experiment], name: str) -> Run:
    """Begin, or go on; changed weights take effect, and who has an arm keeps it."""
    with closing(Store(place)) as store:
        return store.start(design_of(designs, name), time.time())


def end(place: Place, designs: Mapping[str, Experiment], name: str, promote: str, reason: str) -> Run:
    """Everybody gets what was asked for again, or the arm to `promote`. Raises `InvalidRequest` for an arm that is none
    and for an experiment that does not run: of two who end one at the same time, one is told so.
    """
    arms = [arm.name for arm in design_of(designs, name).arms]
    if promote and promote not in arms:
        raise InvalidRequest(f'{name} has no arm "{promote}"{nearest(promote, arms)}', param="promote")
    with closing(Store(place)) as store:
        now = time.time()
        return store.promote(name, promote, reason, now) if promote else store.stop(name, reason, now)
