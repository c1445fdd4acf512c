"""`roundhouse evaluate` as a user runs it, with the demo model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import run

CONFIG = """
llm:
  providers: [{type: llamacpp, model: demo, name: demo}]
  prompt_templates: {worse: "Never mind {context} but ask {question} again"}
experiments:
  wording: {prompt: rag_query, metric: correct, arms: {now: {}, worse: {prompt: worse}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return path


def test_the_better_wording_is_named_and_a_killed_run_goes_on(tmp_path: Path, config: Path) -> None:
    answers = tmp_path / "words.jsonl"
    asked = ("evaluate", str(answers), "--config", str(config), "--count", "40", "--experiment", "wording")
    ended = run(*asked)
    assert ended.returncode == 0, ended.stderr
    assert b"exact_match: worse is lower than now" in ended.stdout
    lines = answers.read_bytes().splitlines(keepends=True)
    answers.write_bytes(b"".join(lines[:-3]))
    told = json.loads(run(*asked, "--json").stdout)
    assert answers.read_bytes().splitlines()[:-3] == [line.rstrip(b"\n") for line in lines[:-3]]
    assert (told["format"], told["control"], told["common"]) == ("roundhouse.evaluation/1", "now", 40)
    assert json.loads((tmp_path / "words.evaluation.json").read_text()) == told
    assert (tmp_path / "words.html").read_text().startswith("<!doctype html>")
    # Once more, without a model: what is there is enough.
    again = json.loads(run("evaluate", str(answers), "--config", str(config), "--json").stdout)
    assert again["metrics"] == told["metrics"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".words")]


def test_answers_from_elsewhere_are_evaluated_by_a_scorer_of_ones_own(tmp_path: Path, config: Path) -> None:
    data, answers = tmp_path / "data.csv", tmp_path / "mine.csv"
    data.write_text("id,question\n" + "".join(f"{n},What is {n}?\n" for n in range(12)))
    answers.write_text("id,question,answer_a,answer_b\n" + "".join(f"{n},What is {n}?,x,xx\n" for n in range(12)))
    ended = run("evaluate", str(answers), "--dataset", str(data), "--config", str(config),
                "--metric", "tests.evaluate.test_command:crosses", "--json")  # fmt: skip
    (metric,) = json.loads(ended.stdout)["metrics"]
    assert metric["against"]["b"]["said"] == "higher"
    assert metric["variants"]["b"]["value"] == 2


def test_a_scorer_in_the_present_folder_is_found_by_the_installed_command(tmp_path: Path, config: Path) -> None:
    """`python -m` looks there by itself, a console script does not."""
    (tmp_path / "data.csv").write_text("id,question\n" + "".join(f"{n},What is {n}?\n" for n in range(12)))
    rows = "".join(f"{n},What is {n}?,x,xx\n" for n in range(12))
    (tmp_path / "mine.csv").write_text(f"id,question,answer_a,answer_b\n{rows}")
    (tmp_path / "checks.py").write_text("def long(given): return len(given.answer)\n")
    command = [str(Path(sys.executable).parent / "roundhouse"), "evaluate", "mine.csv", "--dataset", "data.csv"]
    command += ["--config", str(config), "--json", "--metric"]
    ended = subprocess.run([*command, "checks:long"], cwd=tmp_path, capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    (metric,) = json.loads(ended.stdout)["metrics"]
    assert metric["variants"]["b"]["value"] == 2
    ended = subprocess.run([*command, "chex:long"], cwd=tmp_path, capture_output=True, timeout=60)
    assert (ended.returncode, b"put its folder on PYTHONPATH" in ended.stderr) == (1, True)


def crosses(given: object) -> int:
    return str(getattr(given, "answer", "")).count("x")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("a.html",), 2, "neither .jsonl nor .csv"),
        (("a.jsonl", "--variant", "one"), 2, "two variants at least"),
        (("a.jsonl", "--variant", "one", "--variant", "two,colour=red"), 2, "colour=red is none of"),
        (("a.jsonl", "--dataset", "nowhere.jsonl"), 1, "nowhere.jsonl cannot be read"),
        (("a.jsonl",), 1, "a.jsonl cannot be read"),
        (("a.jsonl", "--metric", "exactly"), 1, 'there is no scorer "exactly"'),
        (("a.jsonl", "--metric", "judge"), 1, "needs a judge"),
        (("a.jsonl", "--experiment", "wordin"), 1, 'did you mean "wording"'),
        (
            ("a.jsonl", "--variant", "a,route=x", "--variant", "b,route=y", "--count", "2"),
            1,
            'no route or target "x"',
        ),
        (("a.jsonl", "--variant", "a", "--variant", "b,prompt=nowhere", "--count", "2"), 1, "nowhere"),
        (("a.jsonl", "--variant", "a", "--variant", "b", "--judge", "nobody"), 1, 'no route or target "nobody"'),
        (("other.jsonl",), 1, "none of the questions of the dataset"),
    ],
)
def test_wrong_use_is_said_in_a_sentence(
    tmp_path: Path, config: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    row = {"question": "Another?", "variant": "a", "answer": "x"}
    (tmp_path / "other.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps({**row, 'variant': 'b'})}\n")
    ended = run("evaluate", *arguments, "--config", str(config), cwd=tmp_path)
    assert ended.returncode == code
    assert said in " ".join(ended.stderr.decode().replace("\u2502", " ").split())
    assert b"Traceback" not in ended.stderr
    assert not (tmp_path / "a.html").exists()
    assert not (tmp_path / "a.jsonl").exists()  # nobody was asked anything
