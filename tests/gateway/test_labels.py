"""A label that is moved on one machine is moved on all, by the copies of their servers."""

import asyncio
from pathlib import Path

import pytest

from roundhouse.config import load_mapping
from roundhouse.gateway import Gateway
from roundhouse.gateway.keeping import address_of, prompts_folder
from roundhouse.gateway.labels import current_catalog, renew_labels
from roundhouse.prompts.table import PromptTable
from tests.fakes.http import fake_server
from tests.fakes.openai import answering
from tests.postgres import PASSWORD, Postgres

pytestmark = pytest.mark.postgres


async def test_a_server_follows_a_label_and_knows_it_without_the_database(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "a.md").write_text("one {x}\n")
    async with fake_server(answering) as fake:
        settings = load_mapping({
            "llm": {"providers": [{"type": "openai", "model": "m", "endpoint": fake.url}], "prompts": str(folder)},
            "state": {"url": postgres.fresh(), "password": PASSWORD},
        })  # fmt: skip
        address = address_of(settings)
        assert address is not None
        renew_labels(settings)
        async with Gateway(settings) as gateway:
            other = PromptTable(address)
            await asyncio.to_thread(other.move_label, folder, tmp_path / "another machine", "a", "production")
            (folder / "a.md").write_text("two {x}\n")
            async with asyncio.timeout(20):
                while not gateway.catalog.labels:
                    await asyncio.sleep(0.02)
            assert gateway.catalog.find("a@production").prepare({"x": 1}).wording("").text.strip() == "one 1"
        other.close()
        assert prompts_folder(address).is_dir()
        postgres.stop()
        try:
            catalog = await asyncio.to_thread(current_catalog, settings)
            assert catalog.find("a@production").prepare({"x": 1}).wording("").text.strip() == "one 1"
            assert "labels of prompts are those known last" in caplog.text
            async with Gateway(settings) as gateway:
                assert gateway.catalog.find("a@production").prepare({"x": 1}).wording("").text.strip() == "one 1"
        finally:
            postgres.start()
