"""A question about a SQLite database, as SQL that a model writes and that can only read.

    roundhouse serve &
    python examples/text_to_sql.py shop.db "Which customer spent the most?"

The model sees the tables, never the rows. Whatever it writes, the database is opened read-only, SQLite itself is told
to refuse everything but reading, and a statement that takes too long is ended. Needs `pip install openai`.
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import openai

READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
MOST_ROWS = 50
LIMIT_S = 5.0


def opened(path: Path) -> sqlite3.Connection:
    """A connection that reads and does nothing else: no writing, no ATTACH, no PRAGMA."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    connection.set_authorizer(lambda what, *_: sqlite3.SQLITE_OK if what in READING else sqlite3.SQLITE_DENY)
    return connection


def schema_of(database: sqlite3.Connection) -> str:
    rows = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    return "\n".join(f"{sql};" for (sql,) in rows)


def run(database: sqlite3.Connection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and at most `MOST_ROWS` rows. Raises `sqlite3.Error` for what is wrong, forbidden or too slow."""
    ends = time.monotonic() + LIMIT_S
    database.set_progress_handler(lambda: time.monotonic() > ends, 10_000)
    with closing(database.execute(sql)) as cursor:
        if cursor.description is None:
            raise sqlite3.ProgrammingError("it is no SELECT statement")
        return [column[0] for column in cursor.description], cursor.fetchmany(MOST_ROWS)


def statement_of(answer: str) -> str:
    """The SQL of an answer; models like to put it between fences."""
    fenced = re.search(r"```(?:sql)?\s*(.*?)```", answer, re.S)
    return (fenced[1] if fenced else answer).strip()


def asked_of(client: openai.OpenAI, model: str, schema: str, question: str, talk: list[Any]) -> str:
    """What the model writes; `talk` is what was said since the first question."""
    variables = {"schema": schema, "question": question}
    with_prompt = {"roundhouse": {"prompt": "text_to_sql", "variables": variables}}
    answer = client.chat.completions.create(model=model, messages=talk, extra_body=with_prompt)
    return answer.choices[0].message.content or ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a SQLite database in plain words.")
    parser.add_argument("database", type=Path)
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8473/v1", help="the server")
    parser.add_argument("--model", default="default", help="route or target that writes the SQL")
    asked = parser.parse_args()
    if not asked.database.is_file():
        parser.error(f"there is no database {asked.database}")
    key = os.environ.get("ROUNDHOUSE_KEY", "none")
    with openai.OpenAI(base_url=asked.url, api_key=key) as client, closing(opened(asked.database)) as database:
        talk: list[Any] = []
        schema = schema_of(database)
        for attempt in (1, 2):
            said = asked_of(client, asked.model, schema, asked.question, talk)
            sql = statement_of(said)
            print(sql, file=sys.stderr)
            try:
                columns, rows = run(database, sql)
                break
            except (sqlite3.Error, sqlite3.Warning) as error:
                if attempt == 2:
                    sys.exit(f"text_to_sql: the model wrote no statement that can be run: {error}")
                told = f"SQLite refuses it: {error}. Write one correct SELECT statement, and nothing else."
                talk = [{"role": "assistant", "content": said}, {"role": "user", "content": told}]
    print("\t".join(columns))
    for row in rows:
        print("\t".join("" if value is None else str(value) for value in row))


if __name__ == "__main__":
    try:
        main()
    except openai.APIConnectionError as error:
        sys.exit(f"text_to_sql: no server answers at {error.request.url}; start one with: roundhouse serve")
    except (openai.APIError, sqlite3.DatabaseError) as error:
        sys.exit(f"text_to_sql: {error}")
