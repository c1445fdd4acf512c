"""Labels and kept versions that servers share; each has a copy, which is what counts without the database."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from roundhouse.core.errors import TemplateError
from roundhouse.database import Place
from roundhouse.prompts.shelf import move_label, open_shelf
from roundhouse.prompts.table import PromptTable, mirror


@pytest.fixture
def table(place: Place) -> Iterator[PromptTable]:
    with closing(PromptTable(place)) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    (folder / "partials").mkdir(parents=True)
    (folder / "a.md").write_text("one {x} {> part}\r\n")
    (folder / "a.mistral.md").write_text("eins {x}\n")
    (folder / "partials" / "part.md").write_text("part")
    return folder


def _text(folder: Path, copy: Path, name: str, family: str = "") -> str:
    return open_shelf(copy).over(open_shelf(folder)).find(name).prepare({"x": 1}).wording(family).text.strip()


def test_a_label_keeps_its_version_and_is_moved_for_everybody(
    table: PromptTable, place: Place, folder: Path, tmp_path: Path
) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    before, first = table.move_label(folder, mine, "a", "production")
    assert before == ""
    (folder / "a.md").write_text("two {x} {> part}\n")
    with closing(PromptTable(place)) as other:
        seen = other.changes()
        mirror(other, theirs)
        assert _text(folder, theirs, "a@production") == "one 1 part"
        assert _text(folder, theirs, "a@production", "mistral") == "eins 1"
        assert _text(folder, theirs, "a") == "two 1 part"
        was, second = table.move_label(folder, mine, "a", "production")
        assert (was, first != second) == (first, True)
        assert other.changes() != seen
        mirror(other, theirs)
        assert _text(folder, theirs, "a@production") == "two 1 part"
        assert other.move_label(folder, theirs, "a", "production", first[:6]) == (second, first)
    mirror(table, mine)
    assert _text(folder, mine, "a@production") == "one 1 part"
    with pytest.raises(TemplateError, match="no label"):
        table.move_label(folder, mine, "a", "../x")
    with pytest.raises(TemplateError, match='no prompt "b"'):
        table.move_label(folder, mine, "b", "production")


def test_a_shared_label_counts_before_one_of_the_folder(table: PromptTable, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    move_label(folder, "a", "production")
    (folder / "a.md").write_text("two {x}\n")
    table.move_label(folder, copy, "a", "production")
    (folder / "a.md").write_text("three {x}\n")
    assert _text(folder, copy, "a@production") == "two 1"


@pytest.mark.parametrize("path", ["../../evil.md", "/etc/evil.md", "partials/../../evil.md", "evil.sh"])
def test_no_row_of_a_database_writes_outside_of_its_folder(table: PromptTable, tmp_path: Path, path: str) -> None:
    with table._db.transaction() as db:
        row = ("a", "0" * 12, path, "text")
        db.execute("INSERT INTO versions_of_prompts VALUES (?, ?, ?, ?)", row)
    with pytest.raises(TemplateError, match="odd name"):
        mirror(table, tmp_path / "deep" / "copy")
    assert list(tmp_path.rglob("evil*")) == []
    with table._db.transaction() as db:
        db.execute("DELETE FROM versions_of_prompts")
        db.execute("INSERT INTO versions_of_prompts VALUES (?, ?, ?, ?)", ("../x", "0" * 12, "a.md", "text"))
    mirror(table, tmp_path / "deep" / "copy")
    assert sorted(one.name for one in (tmp_path / "deep" / "copy").iterdir()) == [
        ".labels.lock",
        "labels.yaml",
        "versions",
    ]
    assert list((tmp_path / "deep" / "copy" / "versions").iterdir()) == []
