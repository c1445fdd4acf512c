"""The same numbers as from all values at hand."""

import csv
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.errors import InvalidRequest, StoreError
from roundhouse.database import Place
from roundhouse.history.export import export
from roundhouse.history.question import Question
from roundhouse.history.statistics import statistics
from roundhouse.history.store import COLUMNS, Writer, row_of
from tests.history.events import ended

# As 0.1.0 made it.
FIRST_SCHEMA = """
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, request_id TEXT NOT NULL, route TEXT NOT NULL, target TEXT NOT NULL,
        model TEXT NOT NULL, prompt TEXT NOT NULL, variant TEXT NOT NULL, experiment TEXT NOT NULL, arm TEXT NOT NULL,
        outcome TEXT NOT NULL, total_s REAL NOT NULL, queue_s REAL NOT NULL, load_s REAL NOT NULL, first_token_s REAL,
        decoding_s REAL NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL, failed_attempts INTEGER NOT NULL, seams INTEGER NOT NULL
    );
    CREATE INDEX requests_by_time ON requests (at);
    PRAGMA user_version = 1;
"""


@pytest.fixture
def path(place: Place) -> Place:
    """Two targets, an hour apart, and what goes wrong."""
    events = [ended(target="one", total_s=number / 100, prompt="rag@1") for number in range(1, 201)]
    events += [ended(target="two", total_s=2.0, outcome="timed_out"), ended(target="two", outcome="client_left"),
               ended(target="two", failed=(("one", "connect_failed"),), output_tokens=11, decoding_s=1.0)]  # fmt: skip
    writer = Writer(place)
    writer.write([row_of(event, 3600.0 * (event.target == "two") + number) for number, event in enumerate(events)])
    writer.close()
    return place


def test_percentiles_counts_and_speed_by_target(path: Place) -> None:
    one, two = statistics(path, Question(by=("target",)))
    assert (one.names, one.requests, one.errors) == (("one",), 200, 0)
    total = one.metrics["total"]
    assert (total.n, total.p50, total.p95, total.p99) == (200, 1.0, 1.9, 1.98)
    assert (two.requests, two.errors, two.clients_left, two.failovers) == (3, 1, 1, 1)
    assert two.error_rate == 0.5
    assert one.output_tokens_per_s == pytest.approx(10.0)
    assert two.metrics["per_token"].p50 is None  # of one value


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=250))
def test_percentiles_are_the_inverse_of_the_distribution(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    path = tmp_path_factory.mktemp("h") / "h.sqlite"
    writer = Writer(path)
    writer.write([row_of(ended(total_s=value), float(place)) for place, value in enumerate(values)])
    writer.close()
    (group,) = statistics(path, Question())
    told = group.metrics["total"]
    n, ordered = len(values), sorted(values)
    for share, found in ((50, told.p50), (95, told.p95), (99, told.p99)):
        enough = n * (100 - share) >= 100
        assert found == (ordered[math.ceil(share * n / 100) - 1] if enough else None)


def test_a_window_a_filter_and_hours(path: Place) -> None:
    assert [group.names for group in statistics(path, Question(since=3600.0, by=("target",)))] == [("two",)]
    assert statistics(path, Question(until=10.0))[0].requests == 10
    assert statistics(path, Question(where={"target": "two", "outcome": "ok"}))[0].requests == 1
    hours = statistics(path, Question(by=("hour", "target")))
    assert [group.names for group in hours] == [("1970-01-01T00:00Z", "one"), ("1970-01-01T01:00Z", "two")]
    assert statistics(path, Question(since=1e9)) == []


def test_a_hostile_value_is_a_value(path: Place) -> None:
    assert statistics(path, Question(where={"target": "x' OR '1'='1"})) == []
    with pytest.raises(InvalidRequest, match="requests have no password"):
        Question(by=("password",))


def test_requests_by_their_time_and_those_told_twice_count_once(place: Place) -> None:
    writer = Writer(place)
    rows = [row_of(ended(request_id=str(number)), float(number)) for number in range(10)]
    writer.write(rows)
    writer.write(rows)
    assert statistics(place, Question())[0].requests == 10
    assert writer.retain(4.0, 1 << 30) == 4
    writer.close()
    assert [group.names for group in statistics(place, Question(by=("minute",)))] == [("1970-01-01T00:00Z",)]
    assert statistics(place, Question(by=("day",)))[0].requests == 6


def test_a_history_of_an_older_roundhouse_is_brought_up_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(FIRST_SCHEMA)
        db.executemany(
            f"INSERT INTO requests ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",
            [row_of(ended(request_id=str(number)), float(number)) for number in range(300)],
        )
        db.commit()
    assert statistics(path, Question())[0].requests == 300  # as it is
    writer = Writer(path)
    writer.write([row_of(ended(request_id="new"), 1e6)])
    writer.close()
    assert statistics(path, Question())[0].requests == 301


def test_what_is_no_history_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no history at"):
        statistics(tmp_path / "none.sqlite", Question())
    (tmp_path / "text.sqlite").write_text("hello, this is a text and no database" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        statistics(tmp_path / "text.sqlite", Question())


def test_exports_hold_every_row_and_column(path: Place, tmp_path: Path) -> None:
    table, parquet = tmp_path / "out.csv", tmp_path / "out.parquet"
    assert export(path, Question(), table) == 203
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert float(rows[199]["total_s"]) == 2.0
    from pyarrow import parquet as reading

    assert export(path, Question(where={"target": "two"}), parquet) == 3
    told = reading.read_table(parquet)
    assert tuple(told.column_names) == COLUMNS
    assert told["total_s"].to_pylist() == [2.0, 1.0, 1.0]
    assert told["output_tokens"].to_pylist() == [6, 6, 11]


def test_an_export_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    path, out = tmp_path / "h.sqlite", tmp_path / "out.csv"
    writer = Writer(path)
    writer.write([row_of(ended(), float(number)) for number in range(200)])
    writer.close()
    out.write_text("before")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StoreError):
        export(path, Question(), out)
    assert out.read_text() == "before"
    assert sorted(one.name for one in tmp_path.iterdir() if "out" in one.name) == ["out.csv"]
    with pytest.raises(InvalidRequest, match=r"must end in \.csv or \.parquet"):
        export(path, Question(), tmp_path / "out.xlsx")
    with pytest.raises(InvalidRequest, match="cannot be written"):
        export(path, Question(), tmp_path / "nowhere" / "out.csv")
