"""A history as a file for other programs: CSV, or Parquet by pyarrow. Whole or not there at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from roundhouse.core.errors import InvalidRequest, MissingExtra
from roundhouse.core.files import replacing
from roundhouse.database import Place, Row
from roundhouse.history.question import Question
from roundhouse.history.store import COLUMNS, reading

__all__ = ["export", "print_rows"]

_AT_ONCE = 20_000
_LIMIT_S = 1800.0
_WHOLE = ("input_tokens", "output_tokens", "cached_tokens", "failed_attempts", "seams")
Batches = Iterator[list[Row]]


def export(place: Place, question: Question, out: Path) -> int:
    """Write the requests that `question` names to `out`, by its ending; gives how many, the oldest first.

    Raises `InvalidRequest` for another ending or a place that cannot be written, `MissingExtra` without pyarrow,
    `StoreError` for a history that cannot be read.
    """
    writers: dict[str, Callable[[BinaryIO, Batches], int]] = {".csv": _csv, ".parquet": _parquet}
    write = writers.get(out.suffix.lower())
    if write is None:
        raise InvalidRequest(f"{out}: the file's name must end in .csv or .parquet", param="out")
    if write is _parquet:
        _pyarrow()
    try:
        with replacing(out) as file:
            return write(file, _batches(place, question))
    except OSError as error:
        raise InvalidRequest(f"{out} cannot be written: {error.strerror or error}", param="out") from error


def print_rows(place: Place, question: Question, file: TextIO) -> int:
    """The same as CSV into an open file."""
    return _lines(file, _batches(place, question))


def _batches(place: Place, question: Question) -> Batches:
    with closing(reading(place, limit_s=_LIMIT_S)) as opened, opened.snapshot() as db:
        condition = question.condition(db.dialect)
        sql = f"SELECT {', '.join(COLUMNS)} FROM requests WHERE {condition} ORDER BY at, id"  # noqa: S608
        yield from db.batches(sql, question.values, _AT_ONCE)


def _csv(out: BinaryIO, batches: Batches) -> int:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    try:
        return _lines(text, batches)
    finally:
        text.detach()  # which is somebody else's to close


def _lines(file: TextIO, batches: Batches) -> int:
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    count = 0
    for rows in batches:
        writer.writerows(rows)
        count += len(rows)
    return count


def _parquet(out: BinaryIO, batches: Batches) -> int:
    """One row group for each batch, so that memory does not grow with the history."""
    arrow, parquet = _pyarrow()
    kinds = {name: arrow.int64() for name in _WHOLE} | {"at": arrow.float64()}
    kinds |= {name: arrow.float64() for name in COLUMNS if name.endswith("_s")}
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])
    count = 0
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        for rows in batches:
            columns = [arrow.array(values, type=schema.field(place).type)
                       for place, values in enumerate(zip(*rows, strict=True))]  # fmt: skip
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
            count += len(rows)
    return count


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        said = 'Parquet needs pyarrow: pip install "roundhouse[parquet]"; CSV needs nothing'
        raise MissingExtra(said, extra="parquet") from error
    return pyarrow, parquet
