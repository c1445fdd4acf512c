"""`roundhouse experiment` as users meet it, and the whole way through a server on the demo model."""

import json
from pathlib import Path

import pytest

from benchmarks.wordings import compare
from roundhouse.config import Settings
from roundhouse.experiments.store import Exposure, Outcome, Store
from roundhouse.gateway.keeping import experiments_place
from tests.cli.test_cli import run

CONFIG = """
llm: {providers: [{type: llamacpp, model: demo}]}
experiments:
  wording: {prompt: rag_query, metric: correct, arms: {now: {}, other: {prompt: rag_query_mistral}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_an_experiment_is_started_looked_at_and_stopped(config: str) -> None:
    assert run("experiment", "list", "--config", config).stdout.startswith(b"wording: not started; now 50%, other 50%")
    ended = run("experiment", "status", "wording", "--config", config)
    assert (ended.returncode, b"was never started" in ended.stderr) == (1, True)
    assert run("experiment", "start", "wording", "--config", config).stdout == b"wording is running\n"
    told = json.loads(run("experiment", "status", "wording", "--config", config, "--json").stdout)
    assert (told["state"], told["decision"], told["units"]) == ("running", "collecting", {"now": 0, "other": 0})
    shown = run("experiment", "status", "wording", "--config", config).stdout
    assert b"other - now, by intention: too few outcomes" in shown
    wrong = run("experiment", "stop", "wording", "--promote", "othr", "--config", config)
    assert b'did you mean "other"?' in wrong.stderr
    assert run("experiment", "stop", "wording", "--promote", "other", "--config", config).returncode == 0
    rows = json.loads(run("experiment", "list", "--config", config, "--json").stdout)["experiments"]
    assert (rows[0]["state"], rows[0]["winner"]) == ("promoted", "other")
    assert b"there is no experiment" in run("experiment", "start", "wordin", "--config", config).stderr


def test_an_arm_that_names_no_prompt_there_is_is_found_by_the_check_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.replace("rag_query_mistral", "rag_qery"))
    ended = run("config", "check", str(path))
    assert (ended.returncode, b'did you mean "rag_query"' in ended.stderr) == (2, True)


def test_power_and_simulation_print_numbers_with_their_meaning(config: str) -> None:
    told = json.loads(run("experiment", "power", "--base", "0.8", "--difference", "0.05", "--json").stdout)
    assert told["units_per_arm_one_look"] == 903
    assert told["units_per_arm"] > 903
    assert run("experiment", "power", "--base", "0.8", "--difference", "0.5").returncode == 2
    asked = ("experiment", "simulate", "--experiments", "100", "--units", "500")
    assert b"false winners in " in run(*asked).stdout
    assert run(*asked).stdout == run(*asked).stdout
    two, four = (json.loads(run("experiment", "power", "--base", "0.5", "--arms", n, "--json").stdout) for n in "24")
    assert 1.2 < four["units_per_arm"] / two["units_per_arm"] < 1.5
    assert b"has 0 units with correct" in run("experiment", "power", "--from", "wording", "--config", config).stderr


def test_power_takes_mean_and_spread_of_any_metric_from_what_was_measured(config: str) -> None:
    asked = ("experiment", "power", "--from", "wording", "--config", config)
    assert run("experiment", "start", "wording", "--config", config).returncode == 0
    store = Store(experiments_place(Settings()))
    exposures = [Exposure(n, "wording", n, "now", "now", "1:demo", 0.5, 0.0, 1.0) for n in range(400)]
    outcomes = [Outcome(n, n, "total_s", 2.0 + n % 2, 1.0) for n in range(400)]
    store.write(exposures, [*outcomes, *(Outcome(n, n, "correct", float(n % 5 > 0), 1.0) for n in range(400))])
    store.close()
    told = json.loads(run(*asked, "--metric", "total_s", "--difference", "-0.1", "--json").stdout)
    assert told["base"] == pytest.approx(2.5)
    assert told["variance_of_a_unit"] == pytest.approx(0.25, rel=0.01)
    assert told["units_per_arm_one_look"] == pytest.approx(2 * 0.25 * 7.849 / 0.1**2, rel=0.01)
    rate = json.loads(run(*asked, "--difference", "0.05", "--json").stdout)
    assert (rate["base"], rate["units_per_arm_one_look"]) == (pytest.approx(0.8), pytest.approx(1005, rel=0.02))
    assert run(*asked, "--difference", "0").returncode == 2


def test_the_trained_wording_wins_over_a_worse_one_through_a_server(tmp_path: Path) -> None:
    told = compare(tmp_path, 180)
    assert (told["decision"], told["winner"]) == ("there is a winner", "trained")
    (found,) = told["comparisons"]
    assert found["by_intention"]["interval"]["high"] < 0
    assert found["as_served"]["interval"]["high"] < 0
    assert told["sample_ratio"]["by_intention"] < 1000
    assert sum(told["units"].values()) == 180
