"""The programs in examples/ run as their first lines say, over the demo model where it can do what they ask."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.summaries import parts_of
from examples.text_to_sql import opened, run, statement_of
from tests.conftest import VARO, WHO
from tests.fakes.http import Exchange, fake_server
from tests.fakes.threads import in_thread
from tests.server.conftest import Served, serve

EXAMPLES = Path(__file__).parents[2] / "examples"
TOWN = EXAMPLES / "town"
REFUSAL = "I don't have enough information to answer this question."
SHOP = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers, total REAL);
INSERT INTO customers VALUES (1, 'Nina Berg'), (2, 'Omar Garcia');
INSERT INTO orders VALUES (1, 1, 20.5), (2, 2, 12), (3, 1, 3);
"""


def _python(program: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=cwd)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = tmp_path_factory.mktemp("examples") / "c.yaml"
    demo = "{type: llamacpp, model: demo"
    config.write_text(f"llm: {{providers: [{demo}, name: demo}}, {demo}, name: vectors, embeddings: true}}]}}\n")
    with serve(config) as server:
        yield server


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    database = sqlite3.connect(path)
    database.executescript(SHOP)
    database.close()
    return path


def test_a_question_is_answered_from_the_paragraph_that_says_it(served: Served, tmp_path: Path) -> None:
    for question, answer in (
        (WHO, VARO),
        ("How many employees does Halden Motors have?", "Halden Motors has 812 employees."),
        ("What does Porto Systems make?", "Porto Systems makes sensors."),
        ("Who painted the bridge of Karst?", REFUSAL),
    ):
        ended = _python("rag.py", TOWN, question, "--url", served.url, "--paragraphs", "1", cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (0, answer + "\n"), ended.stderr
        assert ended.stderr.count("  from ") == 1


def test_vectors_of_our_own_server_are_made_once_and_kept(served: Served, tmp_path: Path) -> None:
    """What the demo model's vectors find is not judged here: they are poor. That they lead to an answer is."""
    index = tmp_path / "index"
    arguments = (TOWN, WHO, "--url", served.url, "--embeddings", "vectors", "--index", index)
    assert _python("rag.py", *arguments, cwd=tmp_path).returncode == 0
    (kept,) = index.iterdir()
    before = kept.stat().st_mtime_ns
    ended = _python("rag.py", *arguments, cwd=tmp_path)
    assert ended.returncode == 0
    assert ended.stderr.count("  from ") == 3
    assert kept.stat().st_mtime_ns == before


def test_what_is_wrong_is_said_in_a_line(served: Served, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for program, arguments, said in (
        ("rag.py", (tmp_path / "empty", "x"), "there is no text in"),
        ("rag.py", (TOWN, "x", "--url", "http://127.0.0.1:9/v1"), "start one with: roundhouse serve"),
        ("rag.py", (TOWN, "Karst", "--url", served.url, "--model", "demmo"), "did you mean demo?"),
        ("text_to_sql.py", (tmp_path / "no.db", "x"), "there is no database"),
        ("text_to_sql.py", (shop, "x", "--url", "http://127.0.0.1:9/v1"), "start one with: roundhouse serve"),
        ("summaries.py", (tmp_path / "nothing",), "there is no folder"),
    ):
        ended = _python(program, *arguments, cwd=tmp_path)
        assert ended.returncode != 0
        assert said in ended.stderr, ended.stderr
        assert "Traceback" not in ended.stderr


def _writing(*statements: str) -> Any:
    """A backend that writes one of `statements` after the other."""
    left = list(statements)

    async def script(exchange: Exchange) -> None:
        await exchange.start()
        event = {"choices": [{"delta": {"content": left.pop(0)}, "finish_reason": "stop"}]}
        await exchange.send(b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n")

    return fake_server(script)


def _asked_of(tmp_path: Path, shop: Path, *statements: str) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """The program over a server whose model writes `statements`; and what that model was sent."""
    config = tmp_path / "c.yaml"
    with in_thread(_writing(*statements)) as fake:
        config.write_text(f"llm: {{providers: [{{type: openai, model: m, endpoint: '{fake.url}'}}]}}\n")
        with serve(config) as server:
            ended = _python("text_to_sql.py", shop, "Who spent the most?", "--url", server.url, cwd=tmp_path)
        return ended, [exchange.json["messages"] for exchange in fake.seen]


RIGHT = (
    "SELECT name, SUM(total) AS spent FROM customers c JOIN orders o ON o.customer = c.id GROUP BY c.id ORDER BY 2 DESC"
)


def test_the_model_sees_the_schema_and_its_statement_is_run(tmp_path: Path, shop: Path) -> None:
    ended, asked = _asked_of(tmp_path, shop, f"```sql\n{RIGHT};\n```")
    assert (ended.returncode, ended.stdout) == (0, "name\tspent\nNina Berg\t23.5\nOmar Garcia\t12.0\n"), ended.stderr
    assert "CREATE TABLE customers" in asked[0][-1]["content"]
    assert "Nina" not in json.dumps(asked)


def test_a_statement_that_fails_is_told_to_the_model_once(tmp_path: Path, shop: Path) -> None:
    ended, asked = _asked_of(tmp_path, shop, "SELECT nome FROM customers", RIGHT)
    assert ended.returncode == 0, ended.stderr
    assert "no such column: nome" in asked[1][-1]["content"]
    assert asked[1][-2] == {"role": "assistant", "content": "SELECT nome FROM customers"}


def test_a_model_that_writes_no_sql_does_no_harm(served: Served, shop: Path, tmp_path: Path) -> None:
    """The demo model can only quote: whatever it makes of the prompt, it is refused, and the database is as it was."""
    before = shop.read_bytes()
    ended = _python("text_to_sql.py", shop, "Drop all tables.", "--url", served.url, cwd=tmp_path)
    assert ended.returncode == 1
    assert "no statement that can be run" in ended.stderr
    assert shop.read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE orders",
        "DELETE FROM orders",
        "UPDATE orders SET total = 0",
        "WITH gone AS (SELECT 1) DELETE FROM orders",
        "SELECT 1; DROP TABLE orders",
        "ATTACH DATABASE '{folder}/new.db' AS other",
        "VACUUM INTO '{folder}/new.db'",
        "PRAGMA writable_schema = 1",
        "CREATE TEMP TABLE x (y)",
        "SELECT load_extension('libm')",
        "EXPLAIN DROP TABLE orders",
        "BEGIN",
        "",
        "I cannot answer that.",
    ],
)
def test_what_does_not_read_is_refused(shop: Path, sql: str) -> None:
    before = shop.read_bytes()
    database = opened(shop)
    try:
        with pytest.raises((sqlite3.Error, sqlite3.Warning)):
            run(database, sql.format(folder=shop.parent))
    finally:
        database.close()
    assert shop.read_bytes() == before
    assert os.listdir(shop.parent) == ["shop.db"]


def test_a_statement_without_end_is_ended(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.text_to_sql.LIMIT_S", 0.05)
    database = opened(shop)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    try:
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            run(database, endless)
        assert run(database, "SELECT 1 AS one") == (["one"], [(1,)])
    finally:
        database.close()


def test_sql_is_taken_out_of_its_fences() -> None:
    for said in ("SELECT 1", " SELECT 1\n", "```sql\nSELECT 1\n```", "Here:\n```\nSELECT 1\n```\nDone."):
        assert statement_of(said) == "SELECT 1"


def test_every_file_gets_a_summary_once_and_what_is_no_text_is_said(tmp_path: Path) -> None:
    """How good the demo model's summaries are is not judged: it cannot write any. That each file has one is."""
    folder, out = tmp_path / "texts", tmp_path / "out.jsonl"
    folder.mkdir()
    for name in ("a.txt", "b.md"):
        (folder / name).write_text(f"{VARO} The lighthouse of Varo is 34 meters tall.")
    (folder / "broken.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "empty.txt").write_text(" \n")
    (folder / "long.txt").write_text("\n\n".join([VARO] * 40))
    ended = _python("summaries.py", folder, "--out", out, "--most", "600", cwd=tmp_path)
    assert ended.returncode == 1
    assert "broken.txt: no summary: 'utf-8'" in ended.stderr
    assert "empty.txt: no summary: it is empty" in ended.stderr
    told = {one["file"]: one["summary"] for one in map(json.loads, out.read_text().splitlines())}
    assert set(told) == {"a.txt", "b.md", "long.txt"}
    assert all(told.values())
    (folder / "a.txt").write_text("Porto Systems makes sensors.")
    with out.open("a") as file:
        file.write('{"file": "kil')  # as a run leaves it that is killed while it writes
    again = _python("summaries.py", folder, "--out", out, "--most", "600", cwd=tmp_path)
    assert again.stdout.startswith("a.txt: ")
    assert "long.txt" not in again.stdout
    assert len(out.read_text().splitlines()) == 4


def test_a_long_text_is_cut_between_paragraphs_and_nothing_is_lost() -> None:
    text = "one two three\n\nfour five\n\nsix"
    assert parts_of(text, 100) == [text]
    assert parts_of(text, 16) == ["one two three", "four five\n\nsix"]
    assert "".join(parts_of("x" * 50, 16)) == "x" * 50
    assert parts_of("  \n", 10) == []
