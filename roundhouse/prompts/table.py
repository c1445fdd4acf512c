"""Labels and kept versions in a database that several servers share. Every server has them as a folder too, of the form
that `shelf` reads: a version never changes, and what the labels were last counts while the database is away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import yaml

from roundhouse.core.errors import StoreError, TemplateError
from roundhouse.core.files import locked, making_folder, write_atomically
from roundhouse.database import Place, Schema, open_database
from roundhouse.prompts.shelf import LABELS, LOCK, VERSIONS, checked_label, files_of, open_shelf

__all__ = ["PromptTable", "mirror"]

_SCHEMA = Schema(
    "prompts",
    (
        """
    CREATE TABLE versions_of_prompts (
        prompt {text} NOT NULL, version {text} NOT NULL, path {text} NOT NULL, content {text} NOT NULL,
        PRIMARY KEY (prompt, version, path)
    ) {clustered};
    CREATE TABLE labels (
        prompt {text} NOT NULL, label {text} NOT NULL, version {text} NOT NULL, PRIMARY KEY (prompt, label)
    ) {clustered};
    """,
    ),
)
_POINT = """
    INSERT INTO labels VALUES (?, ?, ?) ON CONFLICT (prompt, label) DO UPDATE SET version = excluded.version
"""
# What this table holds was written by whoever may write the database; it becomes names of files here.
_FOLDER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*@[0-9a-f]{12}\Z")
_FILE = re.compile(r"(partials/)?[A-Za-z0-9_][A-Za-z0-9_.-]*\.md\Z")


class PromptTable:
    """Safe to use from several threads. Blocks; raises `StoreError`."""

    def __init__(self, place: Place, *, limit_s: float = 5.0) -> None:
        self.place = place
        self._db = open_database(place, _SCHEMA, limit_s=limit_s)

    def close(self) -> None:
        self._db.close()

    def changes(self) -> int:
        """A number that differs once another connection has moved a label."""
        return self._db.changes()

    def labels(self) -> dict[str, dict[str, str]]:
        """Prompt -> label -> version."""
        found: dict[str, dict[str, str]] = {}
        for prompt, label, version in self._db.query("SELECT prompt, label, version FROM labels"):
            found.setdefault(prompt, {})[label] = version
        return found

    def versions(self) -> set[tuple[str, str]]:
        """Of which prompts which versions are kept."""
        return {(row[0], row[1]) for row in self._db.query("SELECT DISTINCT prompt, version FROM versions_of_prompts")}

    def files(self, prompt: str, version: str) -> dict[str, str]:
        """The files of a kept version, by their paths."""
        sql = "SELECT path, content FROM versions_of_prompts WHERE prompt = ? AND version = ?"
        return {row[0]: row[1] for row in self._db.query(sql, (prompt, version))}

    def move_label(self, folder: Path, copy: Path, name: str, label: str, version: str = "") -> tuple[str, str]:
        """As `shelf.move_label`, for all servers. `copy`: the folder that `mirror` keeps."""
        checked_label(label)
        mirror(self, copy)
        prompt = open_shelf(copy).over(open_shelf(folder)).find(f"{name}@{version}" if version else name)
        held = [(prompt.name, prompt.version, path, text) for path, text in files_of(prompt).items()]
        with self._db.transaction() as db:
            sql = f"SELECT version FROM labels WHERE prompt = ? AND label = ? {db.dialect.for_update}"  # noqa: S608
            before = db.query(sql, (name, label))
            db.execute_many("INSERT INTO versions_of_prompts VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", held)
            db.execute(_POINT, (name, label, prompt.version))
            db.changed()
        mirror(self, copy)
        return (before[0][0] if before else ""), prompt.version


def mirror(table: PromptTable, copy: Path) -> None:
    """Bring the folder to what the table has. A label is there only after its version is. Raises `StoreError`."""
    labels, versions = table.labels(), table.versions()
    try:
        (copy / VERSIONS).mkdir(parents=True, exist_ok=True)
        with locked(copy / LOCK):
            for prompt, version in versions:
                name = f"{prompt}@{version}"
                if _FOLDER.match(name) and not (place := copy / VERSIONS / name).is_dir():
                    _write(place, table.files(prompt, version))
            write_atomically(copy / LABELS, yaml.safe_dump(labels, sort_keys=True).encode())
    except OSError as error:
        raise StoreError(f"{copy} cannot be written: {error.strerror or error}", path=str(copy)) from error


def _write(place: Path, files: Mapping[str, str]) -> None:
    with making_folder(place, 0o700) as aside:
        for path, text in files.items():
            if not _FILE.match(path):
                raise TemplateError(f"{place.name} has a file with an odd name in the database: {path!r}")
            target = aside / PurePosixPath(path)
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="")
