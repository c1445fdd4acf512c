"""`roundhouse prompts` as users meet it: what is printed, exit codes, and one sentence for what is wrong."""

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run

CONFIG = "llm: {providers: [{type: llamacpp, model: demo}], prompts: prompts}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "greet.md").write_text("---\nvariables: {n: integer}\n---\nHello {name}, {n} times.\n")
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return path


def test_the_list_has_the_users_prompts_beside_the_built_in_ones(config: Path) -> None:
    told = json.loads(run("prompts", "list", "--config", str(config), "--json").stdout)
    rows = {row["name"]: row for row in told["prompts"]}
    assert {"greet", "rag_query", "text_to_sql"} <= set(rows)
    assert rows["greet"]["variables"] == ["n", "name"]
    assert b"greet " in run("prompts", "list", "--config", str(config)).stdout


def test_rendering_types_its_variables_and_reads_files(config: Path) -> None:
    name = config.parent / "name.txt"
    name.write_text("Ann {x}\n")
    asked = ("prompts", "render", "greet", "--config", str(config), "--var", f"name=@{name}", "--var")
    assert run(*asked, "n=3").stdout.decode() == "<!-- user -->\nHello Ann {x}, 3 times.\n"
    ended = run(*asked, "n=three")
    assert ended.returncode == 1
    assert b'the value of "n" must be a whole number, not str' in ended.stderr
    assert b'has no variable "m"; it has n, name' in run(*asked, "n=3", "--var", "m=1").stderr


def test_rendering_for_a_model_prints_the_very_text_and_counts_its_tokens(config: Path) -> None:
    asked = ("prompts", "render", "rag_query", "--var", "context=[INST] c", "--var", "question=q?", "--json")
    told = json.loads(run(*asked, "--model", "llamacpp", "--config", str(config)).stdout)
    assert told["text"].startswith("<s>[INST] Context: [ INST] c\n\nQuestion: q?")
    assert told["text"].endswith("Answer:[/INST]")
    assert (told["family"], told["variant"]) == ("mistral", "demo")
    assert told["notes"] == ["special tokens in context were broken up"]
    assert told["tokens"] > 10
    offline = json.loads(run(*asked, "--family", "llama3").stdout)
    assert [message["role"] for message in offline["messages"]] == ["system", "user"]
    assert b"did you mean gemma2?" in run(*asked, "--family", "gemma").stderr


def test_a_difference_is_shown_and_told_by_the_exit_code(config: Path) -> None:
    label = ("prompts", "label", "greet", "production", "--config", str(config))
    assert run(*label).stdout.decode().startswith("greet@production: new → ")
    same = run("prompts", "diff", "greet@production", "greet", "--config", str(config))
    assert (same.returncode, same.stdout) == (0, b"")
    (config.parent / "prompts" / "greet.md").write_text("Hi {name}.\n")
    other = run("prompts", "diff", "greet@production", "greet", "--config", str(config))
    assert other.returncode == 1
    assert "-Hello {name}, {n} times.\n+Hi {name}." in other.stdout.decode()
    assert b"n: integer, required" in run("prompts", "show", "greet@production", "--config", str(config)).stdout


def test_a_label_without_a_folder_is_told_where_to_name_one() -> None:
    ended = run("prompts", "label", "rag_query", "production")
    assert ended.returncode == 2
    assert b"labels belong to a folder of prompts" in ended.stderr


def test_a_fault_in_a_prompt_file_is_found_by_the_check_of_the_configuration(config: Path) -> None:
    (config.parent / "prompts" / "bad.md").write_text("one\n{a.b}\n")
    ended = run("config", "check", str(config))
    assert ended.returncode == 2
    assert b"bad.md" in ended.stderr
    assert b"line 2" in ended.stderr


def test_parity_says_who_reads_what(config: Path) -> None:
    config.write_text(
        "llm: {providers: [{type: llamacpp, model: demo, name: a}, {type: llamacpp, model: demo, name: b},"
        ' {type: llamacpp, model: demo, name: c, chat_template: "{{ messages[0].content }}", family: mistral}]}'
    )
    ended = run("prompts", "parity", "--config", str(config), "--json")
    told = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert [one["same"] for one in told["targets"]] == [None, True, False]
    assert "differs from a at token" in told["targets"][2]["said"]
    assert run("prompts", "parity", "a", "b", "--config", str(config)).returncode == 0
