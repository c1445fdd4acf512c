"""A download as a person follows it: bytes, rate and time left on a terminal; elsewhere only what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as Speed

from roundhouse.cli.common import tell
from roundhouse.store.download import Fetched

__all__ = ["download_shown"]


@contextmanager
def download_shown() -> Iterator[Callable[[Fetched], None]]:
    """What to call with each event."""
    if not sys.stderr.isatty():
        yield _notes()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        tasks: dict[str, TaskID] = {}
        note = _notes()

        def listen(event: Fetched) -> None:
            if event.note:
                note(event)
                return
            if event.path not in tasks:  # what an earlier run brought is no speed of this one
                tasks[event.path] = shown.add_task(event.path, total=event.size, completed=event.done)
            shown.update(tasks[event.path], completed=event.done)

        yield listen


def _notes() -> Callable[[Fetched], None]:
    said: set[str] = set()

    def listen(event: Fetched) -> None:
        line = f"{event.path}: {event.note}" if event.path else event.note
        if event.note and line not in said:
            said.add(line)
            tell(line)

    return listen
