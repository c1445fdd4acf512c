"""`roundhouse rate` as a user runs it: the commands, and the server of the page against strangers and kills."""

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roundhouse.store.locks import locked
from tests.cli.test_cli import run
from tests.rating.conftest import Opened, opened, row

JSON = {"content-type": "application/json"}


class Client:
    """One browser, as far as the server can tell."""

    def __init__(self, page: Opened) -> None:
        self.port = int(page.root.rpartition(":")[2])
        status, headers, _ = self.ask("GET", page.address.removeprefix(page.root))
        assert status == 303
        self.cookie = headers["set-cookie"].partition(";")[0]

    cookie = ""

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        data = body if isinstance(body, str | None) else json.dumps(body)
        sent = {**(JSON if body is not None else {}), "cookie": self.cookie, **(headers or {})}
        connection.request(method, path, data, sent)
        answer = connection.getresponse()
        told = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        connection.close()
        return told

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        status, _, text = self.ask("POST", path, body)
        assert status == 200, text
        return dict(json.loads(text))

    def judge(self, rater: str, task: int, verdict: str = "left", **more: Any) -> dict[str, Any]:
        return self.post("/api/judgement", rater=rater, comparison=task, verdict=verdict, **more)


def status(answers: Path) -> dict[str, Any]:
    return dict(json.loads(run("rate", "status", str(answers), "--json").stdout))


def test_a_verdict_is_stored_when_it_is_answered_and_a_kill_loses_none(answers: Path) -> None:
    with opened(answers, "--rater", "ada") as page:
        client = Client(page)
        assert json.loads(client.ask("GET", "/api/hello")[2]) == {"rater": "ada", "raters": []}
        first = client.post("/api/task", rater="ada")
        assert (first["done"], first["total"]) == (0, 6)
        second = client.judge("ada", first["task"]["id"], note="why not", seconds=3)
        os.kill(page.process.pid, signal.SIGKILL)
    told = status(answers)
    assert (told["judged"], told["raters"][0]["name"], told["notes"]) == (1, "ada", 1)
    with opened(answers.with_suffix(".ratings")) as page:
        again = Client(page).post("/api/task", rater="ada")
        assert (again["done"], again["task"]) == (1, second["task"])


def test_two_processes_serve_one_file(answers: Path) -> None:
    with opened(answers) as one, opened(answers) as two:
        ada, bob = Client(one), Client(two)
        for client, rater in ((ada, "ada"), (bob, "bob")) * 6:
            task = client.post("/api/task", rater=rater)["task"]
            client.judge(rater, task["id"], "left" if task["left"].startswith("good") else "right")
        assert ada.post("/api/task", rater="ada")["task"] is None
    told = status(answers)
    assert told["pairs"][0]["wins"] == 6
    assert told["agreement"]["same"] == 1.0
    shown = run("rate", "status", str(answers)).stdout.decode()
    assert "good against poor" in shown
    assert "two raters say the same of 100%" in shown


def test_nothing_that_is_sent_tells_a_variant(answers: Path) -> None:
    text = answers.read_text().replace('"variant": "good"', '"variant": "v-one"')
    answers.write_text(text.replace('"variant": "poor"', '"variant": "v-two"'))
    with opened(answers) as page:
        client = Client(page)
        task = client.post("/api/task", rater="ada")["task"]
        bodies = [
            client.ask("POST", "/api/task", {"rater": "ada"}),
            client.ask("GET", "/"),
            client.ask("GET", "/api/hello"),
        ]
        bodies.append(
            client.ask("POST", "/api/judgement", {"rater": "ada", "comparison": task["id"], "verdict": "tie"})
        )
        for _, headers, body in bodies:
            assert "v-one" not in body + str(headers)
            assert "v-two" not in body + str(headers)


def test_strangers_stay_outside(answers: Path) -> None:
    """Another Host, a page of another site, no cookie, a token for the second time, a form's content type."""
    with opened(answers) as page:
        client = Client(page)
        used = page.address.removeprefix(page.root)
        own = {"origin": page.root}
        body = {"rater": "ada"}
        assert client.ask("POST", "/api/task", body, own)[0] == 200
        assert client.ask("POST", "/api/task", body, {"host": f"evil.example:{client.port}"})[0] == 400
        assert client.ask("POST", "/api/task", body, {"host": "127.0.0.1:1"})[0] == 400
        assert client.ask("POST", "/api/task", body, {"origin": "http://evil.example"})[0] == 403
        assert client.ask("POST", "/api/task", body, {"origin": "null"})[0] == 403
        assert (
            client.ask("GET", "/api/hello", None, {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"})[0] == 403
        )
        assert client.ask("GET", "/", None, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})[0] == 200
        assert client.ask("POST", "/api/task", '{"rater": "ada"}', {"content-type": "text/plain"})[0] == 400
        for path in ("/", "/static/rate.js", "/api/hello", used, "/?token=", "/?token=%C3%A9"):
            assert client.ask("GET", path, None, {"cookie": ""})[0] == 403, path
        assert client.ask("GET", "/", None, {"cookie": client.cookie + "x"})[0] == 403
        _, headers, _ = client.ask("GET", "/")
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        other = Client(Opened(page.process, page.another()))
        assert other.post("/api/task", rater="bob")["done"] == 0
        assert client.post("/api/task", rater="ada")["done"] == 0


def test_what_a_page_would_not_send_is_refused_with_a_reason(answers: Path) -> None:
    said = {"rater": "ada", "comparison": 1, "verdict": "tie"}
    wrong: list[tuple[str, Any]] = [
        ("/api/task", "{"),
        ("/api/task", {"rater": ""}),
        ("/api/task", {"rater": 3}),
        ("/api/task", {"rater": "ada", "variant": "good"}),
        ("/api/judgement", {**said, "verdict": "best"}),
        ("/api/judgement", {**said, "comparison": 10**30}),
        ("/api/judgement", {**said, "note": "x" * 5000}),
        ("/api/judgement", {**said, "note": "x" * 100_000}),
        ("/api/judgement", json.dumps({**said, "note": "@"}).replace("@", "\\ud800")),
    ]
    with opened(answers) as page:
        client = Client(page)
        for path, body in wrong:
            status, _, text = client.ask("POST", path, body)
            assert (status, bool(json.loads(text)["error"])) == (400, True), body
        assert client.post("/api/task", rater="ada")["done"] == 0


def test_what_was_fixed_at_the_start_cannot_be_changed_in_the_middle(answers: Path) -> None:
    with opened(answers, "--seed", "4"):
        pass
    for option, value in (("--seed", "5"), ("--margin", "0.2")):
        ended = run("rate", "open", str(answers), "--no-browser", option, value)
        assert (ended.returncode, f"was begun with {option}".encode() in ended.stderr) == (1, True)


def test_answers_that_changed_are_not_mixed_with_what_was_rated(answers: Path) -> None:
    with opened(answers):
        pass
    answers.write_text(answers.read_text().replace("poor 3", "other"))
    ended = run("rate", "open", str(answers), "--no-browser")
    assert (ended.returncode, b"name another file by --into" in ended.stderr) == (1, True)


def test_wrong_use_is_said_in_a_sentence(answers: Path, tmp_path: Path) -> None:
    assert b"there are no ratings at" in run("rate", "status", str(answers)).stderr
    same = tmp_path / "same.jsonl"
    same.write_text(row(1, "a", answer="x") + row(1, "b", answer="x"))
    assert b"there is nothing to compare" in run("rate", "open", str(same)).stderr
    with opened(answers):
        pass
    assert run("rate", "export", str(answers), "--form", "xml").returncode == 2
    assert run("rate", "open", str(answers), str(same)).returncode == 2
    assert run("rate", "open", str(answers.with_suffix(".ratings")), "--into", "x").returncode == 2


def test_an_export_is_rows_of_json(answers: Path, tmp_path: Path) -> None:
    with opened(answers) as page:
        client = Client(page)
        task = client.post("/api/task", rater="ada")["task"]
        client.judge("ada", task["id"], "right")
    (line,) = run("rate", "export", str(answers), "--form", "dpo").stdout.splitlines()
    assert json.loads(line)["chosen"][0]["content"] == task["right"]
    out = tmp_path / "out.jsonl"
    assert run("rate", "export", str(answers), "--out", str(out)).returncode == 0
    assert json.loads(out.read_text())["rater"] == "ada"


def test_variants_answer_a_dataset_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    asked = ("rate", "answer", "--out", str(out), "--count", "3", "--variant", "short,max_tokens=3", "--json")
    both = (*asked, "--variant", "long,prompt=rag_query")
    told = json.loads(run(*both).stdout)
    assert (told["new"], told["kept"], told["failed"]) == (6, 0, [])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {one["target"] for one in rows} == {"demo"}
    assert "length" in {one["finish_reason"] for one in rows if one["variant"] == "short"}
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    told = json.loads(run(*both).stdout)
    assert (told["new"], told["kept"]) == (2, 4)
    assert len(out.read_text().splitlines()) == 6
    with opened(out) as page:
        assert Client(page).post("/api/task", rater="ada")["total"] >= 1
    changed = run(*asked, "--variant", "long,prompt=rag_query_mistral")
    assert (changed.returncode, b'"long" was made otherwise' in changed.stderr) == (1, True)


def test_answers_that_the_disk_does_not_take_are_asked_again_later(tmp_path: Path) -> None:
    """A sentence and no traceback; the line that was cut in the middle is made anew."""
    out = tmp_path / "a.jsonl"
    asked = ("rate", "answer", "--out", str(out), "--count", "5", "--variant", "one", "--variant", "two,max_tokens=4")
    limited = ["bash", "-c", 'ulimit -f 2; exec "$@"', "-", sys.executable, "-m", "roundhouse", *asked]
    ended = subprocess.run(limited, capture_output=True, timeout=60)
    assert (ended.returncode, out.stat().st_size) == (1, 2048)
    assert b"cannot be written: File too large; what it has is kept" in ended.stderr
    assert b"Traceback" not in ended.stderr
    whole = out.read_text().splitlines()[:-1]
    told = json.loads(run(*asked, "--json").stdout)
    assert (told["new"], told["kept"]) == (10 - len(whole), len(whole))
    assert out.read_text().splitlines()[: len(whole)] == whole


def test_one_process_at_a_time_writes_answers(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    with locked(out):
        ended = run(
            "rate", "answer", "--out", str(out), "--count", "1", "--variant", "a", "--variant", "b,max_tokens=3"
        )
    assert (ended.returncode, out.read_bytes()) == (1, b"")
    assert b"is in use by another process" in ended.stderr


@pytest.mark.parametrize("text", ["dear diary", '{"id": "1", "question": "Why?"}', "\n"])
def test_a_file_of_something_else_is_never_changed(tmp_path: Path, text: str) -> None:
    out = tmp_path / "a.jsonl"
    out.write_text(text)
    ended = run("rate", "answer", "--out", str(out), "--count", "1", "--variant", "a", "--variant", "b,max_tokens=3")
    assert (ended.returncode, out.read_text()) == (1, text)
    assert b"a.jsonl:1: no line of `roundhouse rate answer`" in ended.stderr


def test_the_arms_of_an_experiment_are_variants(tmp_path: Path) -> None:
    config, out = tmp_path / "c.yaml", tmp_path / "a.jsonl"
    config.write_text("""
llm: {providers: [{type: llamacpp, model: demo}]}
experiments:
  wording: {prompt: rag_query, metric: correct, arms: {now: {}, other: {prompt: rag_query_mistral}}}
""")
    asked = ("rate", "answer", "--out", str(out), "--config", str(config), "--count", "2")
    assert run(*asked, "--experiment", "wording").returncode == 0
    made = {one["variant"]: one["made_by"]["prompt"] for one in map(json.loads, out.read_text().splitlines())}
    assert made == {"now": "rag_query", "other": "rag_query_mistral"}
    assert b'did you mean "wording"' in run(*asked, "--experiment", "wordin").stderr


def test_answers_of_a_prompt_that_was_edited_since_are_another_variants(tmp_path: Path) -> None:
    config, out = tmp_path / "c.yaml", tmp_path / "a.jsonl"
    written = (
        "llm: {providers: [{type: llamacpp, model: demo}], prompt_templates: {rag_query: '{question} %s{context}'}}"
    )
    asked = ("rate", "answer", "--out", str(out), "--config", str(config), "--count", "2")
    asked = (*asked, "--variant", "now", "--variant", "cold,temperature=0")
    config.write_text(written % "")
    assert run(*asked).returncode == 0
    made = [json.loads(line)["made_by"] for line in out.read_text().splitlines()]
    assert {(one["prompt"], one["model"]) for one in made} == {("rag_query", "demo")}
    assert len({one["version"] for one in made}) == 1
    config.write_text(written % "By this: ")
    before = out.read_bytes()
    ended = run(*asked)
    assert (ended.returncode, out.read_bytes()) == (1, before)
    assert b'"now" was made otherwise' in ended.stderr


def test_a_context_that_was_cut_is_said(tmp_path: Path) -> None:
    dataset, out = tmp_path / "d.jsonl", tmp_path / "a.jsonl"
    long = "\n\n".join(f"The lighthouse of Varo{n} was built in {n}." for n in range(400))
    dataset.write_text(json.dumps({"question": "When was the lighthouse of Varo7 built?", "context": long}) + "\n")
    asked = ("rate", "answer", "--out", str(out), "--dataset", str(dataset))
    ended = run(*asked, "--variant", "one", "--variant", "two,max_tokens=20")
    assert ended.returncode == 0
    assert b"one: 1 of these were asked about a part of their context" in ended.stderr
    (cut,) = json.loads(out.read_text().splitlines()[0])["cut"]
    assert "of 400 paragraphs" in cut


def test_a_variant_that_cannot_answer_is_said_and_the_others_are_kept(tmp_path: Path) -> None:
    out, config = tmp_path / "a.jsonl", tmp_path / "c.yaml"
    config.write_text(
        "llm: {providers: [{type: llamacpp, name: demo, model: demo}, "
        "{type: openai, name: dead, model: m, endpoint: 'http://127.0.0.1:9'}]}\nroutes: {default: [demo]}\n"
    )
    asked = ("rate", "answer", "--out", str(out), "--count", "2", "--variant", "one", "--variant")
    ended = run(*asked, "two,route=dead", "--config", str(config))
    assert ended.returncode == 1
    assert b"2 new answers, 0 were there, 2 could not be had" in ended.stdout
    assert b"cannot be reached at http://127.0.0.1:9" in ended.stderr
    ended = run(*asked, "two,route=nowhere", "--config", str(config))
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert b'there is no route or target "nowhere"' in ended.stderr
    assert run(*asked, "two,colour=3").returncode == 2
    assert run(*asked, "one").returncode == 2
    assert run(*asked, "two,temperature=hot").returncode == 2


def test_runs_of_a_benchmark_are_rated_and_the_report_tells_it(tmp_path: Path) -> None:
    """From the answers that were timed to the section beside their times."""
    runs = []
    for label, tokens in (("short", "3"), ("long", "60")):
        runs.append(str(tmp_path / f"{label}.json"))
        asked = ("--users", "1", "--count", "6", "--max-tokens", tokens, "--label", label, "--texts", "--out", runs[-1])
        assert run("bench", "run", *asked).returncode == 0
    ratings, report = tmp_path / "r.ratings", tmp_path / "report.html"
    with opened(Path(runs[0]), runs[1], "--into", str(ratings)) as page:
        client = Client(page)
        view = client.post("/api/task", rater="ada")
        judged = view["total"]  # what both refuse to answer, in the same words, is not shown
        assert judged >= 2
        while task := view["task"]:
            longer = "left" if len(task["left"]) > len(task["right"]) else "right"
            view = client.judge("ada", task["id"], longer)
    assert run("bench", "report", *runs, "--ratings", str(ratings), "--out", str(report)).returncode == 0
    text = report.read_text()
    assert "Rated by people" in text
    assert f"{judged} of {judged} comparisons judged blind by 1 rater." in text
    ended = run("rate", "open", runs[0], "--into", str(tmp_path / "x.ratings"))
    assert b"two runs at least" in ended.stderr
