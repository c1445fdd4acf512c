"""A run beside another: faster, slower, equivalent, or it cannot be told; and what becomes of a file that is none."""

import math
import random
from dataclasses import replace
from pathlib import Path

import jsonschema
import msgspec
import pytest

from roundhouse.bench import compare as comparing
from roundhouse.bench.compare import Verdict, compare, markdown
from roundhouse.bench.records import Record
from roundhouse.bench.report import page
from roundhouse.bench.results import VERSION, Point, Results, machine, read, schema, write
from roundhouse.bench.sampling import Sample
from roundhouse.bench.summary import Window, summarise
from roundhouse.core.errors import InvalidRequest


def a_run(
    label: str, *, seed: int, slower: float = 1.0, failing: float = 0.0, n: int = 400, rounds: int = 2
) -> Results:
    chance = random.Random(seed)
    points, n = [], 400
    for number in range(rounds):
        records = []
        for at in range(n):
            first = at + (0.1 + chance.expovariate(100)) * slower
            error = "overloaded" if chance.random() < failing else ""
            records.append(Record(0, float(at), float(at), first, first + 0.5 * slower, output_tokens=6, error=error))
        window = Window(0, n)
        summary = summarise(records, window, {}, paced=True)
        sample = Sample(1.0, 0.5, 1.0, 1 << 20, 1 << 30, ((0.5, 1 << 30, 200.0),))
        points.append(Point("constant 1", 1.0, "requests/s", number, window, summary, None, records, [sample]))
    return Results(VERSION, label, "now", {"route": "x"}, {"seed": 0}, machine(), points)


def test_a_run_beside_another_of_the_same_is_never_faster_or_slower() -> None:
    rows, notes = compare(a_run("a", seed=1), a_run("b", seed=2))
    assert {row.verdict for row in rows} <= {Verdict.EQUIVALENT, Verdict.INCONCLUSIVE}
    assert Verdict.EQUIVALENT in {row.verdict for row in rows if row.metric == "e2e.p50"}
    assert notes == []


def test_ten_percent_more_is_slower_and_the_other_way_round_faster() -> None:
    a, b = a_run("a", seed=1), a_run("b", seed=2, slower=1.1)
    found = {row.metric: row for row in compare(a, b)[0]}
    assert found["ttft_sched.p50"].verdict is Verdict.SLOWER
    assert found["e2e_sched.p50"].verdict is Verdict.SLOWER
    assert found["ttft_sched.p50"].low <= 0.1 <= found["ttft_sched.p50"].high
    assert {row.verdict for row in compare(b, a)[0] if row.metric == "e2e_sched.p50"} == {Verdict.FASTER}


def test_a_change_within_the_margin_is_none() -> None:
    a, b = a_run("a", seed=1), a_run("b", seed=2, slower=1.1)
    found = {row.metric: row.verdict for row in compare(a, b, margin=0.2)[0]}
    assert found["e2e_sched.p50"] is Verdict.EQUIVALENT


def test_more_errors_are_worse() -> None:
    found = {row.metric: row for row in compare(a_run("a", seed=1), a_run("b", seed=2, failing=0.1))[0]}
    assert found["error_rate"].verdict is Verdict.WORSE
    assert "| error_rate | 0.00 % |" in markdown(list(found.values()), [], ("a", "b"))


def test_few_failures_are_chance_and_no_failure_of_few_requests_is_no_proof() -> None:
    def verdict(a: float, b: float, rounds: int) -> Verdict:
        rows = compare(a_run("a", seed=1, failing=a, rounds=rounds), a_run("b", seed=2, failing=b, rounds=rounds))[0]
        return next(row.verdict for row in rows if row.metric == "error_rate")

    assert verdict(0.0, 0.0, 2) is Verdict.EQUIVALENT
    few = [replace(point, records=point.records[:100]) for point in a_run("a", seed=1, rounds=1).points]
    rows = compare(replace(a_run("a", seed=1), points=few), replace(a_run("b", seed=2), points=few))[0]
    assert next(row for row in rows if row.metric == "error_rate").verdict is Verdict.INCONCLUSIVE


def _unsteady(chance: random.Random, between: float, slower: float = 1.0, rounds: int = 2, n: int = 60) -> Results:
    """Rounds differ by a factor whose logarithm has the standard deviation `between`; so do requests, by 0.3."""
    points = []
    for number in range(rounds):
        factor = slower * math.exp(chance.gauss(0, between))
        took = [0.1 * factor * math.exp(chance.gauss(0, 0.3)) for _ in range(n)]
        records = [Record(0, float(at), float(at), at + one, at + one, output_tokens=1) for at, one in enumerate(took)]
        summary = summarise(records, Window(0, n), {}, paced=True)
        points.append(Point("c", 1.0, "requests/s", number, Window(0, n), summary, None, records))
    return Results(VERSION, "x", "now", {}, {}, machine(), points)


@pytest.mark.parametrize(("between", "rounds"), [(0.0, 2), (0.1, 2), (0.1, 4)])
def test_of_runs_of_the_same_hardly_any_is_called_different(
    between: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 % are promised at most; 60 tries, three standard errors above it. Two rounds that differ are no evidence."""
    monkeypatch.setattr(comparing, "METRICS", ("ttft_sched",))
    monkeypatch.setattr(comparing, "_DRAWS", 300)
    told = 0
    for seed in range(60):
        chance = random.Random(seed)
        rows, _ = compare(_unsteady(chance, between, rounds=rounds), _unsteady(chance, between, rounds=rounds))
        told += rows[0].verdict in (Verdict.FASTER, Verdict.SLOWER)
    assert told <= 60 * (0.05 + 3 * (0.05 * 0.95 / 60) ** 0.5)


def test_a_tenth_slower_is_found_through_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "METRICS", ("ttft_sched",))
    found = []
    for seed in range(10):
        chance = random.Random(seed)
        a, b = _unsteady(chance, 0.02, rounds=4, n=300), _unsteady(chance, 0.02, 1.1, rounds=4, n=300)
        found.append(compare(a, b)[0][0].verdict)
    assert found.count(Verdict.SLOWER) >= 8
    assert Verdict.FASTER not in found


def test_students_quantiles_are_those_of_the_tables() -> None:
    assert [comparing.student(0.95, freedom) for freedom in (1, 2, 6, 30)] == pytest.approx(
        [12.706, 4.303, 2.447, 2.042], abs=2e-3
    )


def test_one_round_is_said_to_be_too_little_to_know_how_rounds_differ() -> None:
    _, notes = compare(a_run("a", seed=1, rounds=1), a_run("b", seed=2))
    assert "one round each" in notes[0]


def test_runs_of_different_loads_are_not_compared() -> None:
    b = a_run("b", seed=2)
    b = replace(b, points=[replace(point, load="poisson 3") for point in b.points])
    with pytest.raises(InvalidRequest, match="no load in common"):
        compare(a_run("a", seed=1), b)


def test_results_are_read_as_they_were_written_and_keep_to_the_schema(tmp_path: Path) -> None:
    results, path = a_run("a", seed=1), tmp_path / "runs" / "a.json"
    write(path, results)
    assert read(path) == results
    jsonschema.validate(msgspec.json.decode(path.read_bytes()), schema())
    assert [one.name for one in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version":1}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_file_of_results_is_said(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InvalidRequest, match=r"a\.json is no file of results"):
        read(path)


def test_half_a_file_and_one_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write(path, replace(a_run("a", seed=1), version=99))
    with pytest.raises(InvalidRequest, match="version 99"):
        read(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidRequest, match="not a whole one"):
        read(path)


def test_a_file_of_the_first_version_is_read_and_counts_as_answered_what_ended_in_time(tmp_path: Path) -> None:
    """Version 1 said that a server answers as fast as it is asked, however far it fell behind."""
    path = tmp_path / "a.json"
    run = a_run("a", seed=1, rounds=1)
    for number, record in enumerate(run.points[0].records):
        record.end = max(record.end, number * 2.0)  # half as fast as it is asked
    old = msgspec.to_builtins(replace(run, version=1))
    for name in ("offered_per_s", "late", "uncounted"):
        del old["points"][0]["summary"][name]
    del old["ended_early"]
    path.write_bytes(msgspec.json.encode(old))
    told = read(path).points[0].summary
    assert told.requests_per_s == pytest.approx(0.5, rel=0.02)
    assert told.offered_per_s == pytest.approx(1.0)
    assert told.late == 199


def test_a_write_that_fails_leaves_the_file_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk."""
    path = tmp_path / "a.json"
    write(path, a_run("a", seed=1))
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, a_run("b", seed=2))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_a_report_loads_nothing_and_believes_no_name() -> None:
    text = page([a_run("<script>alert(1)</script>", seed=1)])
    assert "<script" not in text
    assert "src=" not in text
    assert "href=" not in text
    assert "latency, ms" in text
    assert "GPU power" in text


def _answered(right: list[bool]) -> Results:
    """Every question once, a second each, with what is known of its answer."""
    told = a_run("q", seed=1, rounds=1)
    for item, (record, good) in enumerate(zip(told.points[0].records, right, strict=False)):
        record.item, record.right = item, float(good)
    return told


def _exact(a: list[bool], b: list[bool], **settings: float) -> Verdict | None:
    rows = compare(_answered(a), _answered(b), **settings)[0]
    return next((row.verdict for row in rows if row.metric == "exact_match"), None)


def test_quality_is_compared_question_by_question() -> None:
    """Ten of 400 lost and none won is worse, where two shares of 95 and 92.5 % by themselves could be chance."""
    good = [number % 20 != 0 for number in range(400)]
    lost = [one and number > 10 for number, one in enumerate(good)]
    swapped = [one or (number % 20 == 0 and 10 < number < 220) for number, one in enumerate(lost)]
    assert _exact(good, lost) is Verdict.WORSE
    assert _exact(lost, good) is Verdict.BETTER
    assert _exact(good, good) is Verdict.EQUIVALENT
    assert _exact(good, swapped, quality_margin=0.001) is Verdict.INCONCLUSIVE


def test_few_questions_are_no_proof_that_two_models_are_equally_good() -> None:
    assert _exact([True] * 25, [True] * 25) is Verdict.INCONCLUSIVE
    assert _exact([True] * 19, [True] * 19) is None


def test_quality_that_nobody_knows_is_not_compared() -> None:
    assert all(row.metric != "exact_match" for row in compare(a_run("a", seed=1), a_run("b", seed=2))[0])
