"""The JSON Schema for editors and the checks of the loader come from one table, and agree."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from roundhouse.config import Invalid, load_text, schema
from tests.config.test_load import USERS_FILE

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


def _valid(text: str) -> bool:
    return jsonschema.Draft202012Validator(schema()).is_valid(yaml.safe_load(text))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(json.dumps(schema())))


@pytest.mark.parametrize("text", [USERS_FILE, EXAMPLE.read_text()], ids=["the user's", "config.example.yaml"])
def test_files_that_load_fit_the_schema(text: str) -> None:
    load_text(text, environ={"OPENAI_API_KEY": "x"})
    assert _valid(text)


@pytest.mark.parametrize(
    "fault",
    ["sever: {}", "server: {port: 70000}", "limits: {queue: -1}", "resources: {memory_fraction: 2}"],
)
def test_files_that_are_refused_do_not(fault: str) -> None:
    text = f"llm: {{providers: [{{type: ollama, model: m}}]}}\n{fault}\n"
    with pytest.raises(Invalid):
        load_text(text)
    assert not _valid(text)


def test_the_example_names_every_key() -> None:
    """A key that nobody can find might as well not exist."""
    text = EXAMPLE.read_text()
    missing = [key for key in _keys(schema()) if f"{key}:" not in text]
    assert missing == []


def _keys(part: object) -> set[str]:
    found: set[str] = set()
    if isinstance(part, dict):
        found |= set(part.get("properties", {}))
        for value in part.values():
            found |= _keys(value)
    elif isinstance(part, list):
        for value in part:
            found |= _keys(value)
    return found
