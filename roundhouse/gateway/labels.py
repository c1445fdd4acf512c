"""Labels of prompts that servers share: known before a start, followed while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from roundhouse.config import Settings
from roundhouse.core.errors import StoreError, TemplateError
from roundhouse.database import Address
from roundhouse.gateway.keeping import address_of, prompts_folder
from roundhouse.gateway.wordings import catalog_of
from roundhouse.prompts.catalog import Catalog
from roundhouse.prompts.table import PromptTable, mirror

__all__ = ["Labels", "current_catalog", "renew_labels"]

log = logging.getLogger(__name__)
_PERIOD_S = 0.5
_START_S = 3.0


def current_catalog(settings: Settings) -> Catalog:
    """All prompts, with the labels that the shared database has now. Blocks as `renew_labels` does.

    Raises `TemplateError`.
    """
    renew_labels(settings)
    return catalog_of(settings)


def renew_labels(settings: Settings) -> None:
    """Bring this user's copy of the shared labels up, as far as the database answers within some seconds. Blocks."""
    address = address_of(settings)
    if address is not None and settings.prompts:
        with closing(PromptTable(address, limit_s=_START_S)) as table:
            try:
                mirror(table, prompts_folder(address))
            except StoreError as error:
                log.warning("labels of prompts are those known last: %s", error)


class Labels:
    """`tell` is given the catalogue of `settings`, which may be exchanged, whenever somebody has moved a label."""

    def __init__(self, address: Address, settings: Settings, tell: Callable[[Catalog], None]) -> None:
        self.settings = settings
        self._copy = prompts_folder(address)
        self._table = PromptTable(address, limit_s=_START_S)
        self._tell = tell
        self._thread = ThreadPoolExecutor(1, "labels")
        self._seen: int | None = None
        self._said = ""
        self._task = asyncio.create_task(self._run(), name="labels of prompts")

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)
        self._table.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                settings = self.settings
                catalog = await loop.run_in_executor(self._thread, self._renewed, settings)
                if catalog is not None and settings is self.settings:
                    self._tell(catalog)
                self._said = ""
            except (StoreError, TemplateError) as error:
                if str(error) != self._said:
                    log.warning("prompts stay as they are: %s", error)
                self._said = str(error)
            await asyncio.sleep(_PERIOD_S)

    def _renewed(self, settings: Settings) -> Catalog | None:
        seen = self._table.changes()
        if seen == self._seen:
            return None
        mirror(self._table, self._copy)
        catalog = catalog_of(settings)
        self._seen = seen
        return catalog
