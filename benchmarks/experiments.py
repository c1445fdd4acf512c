"""Do the statistics of experiments hold, and what do prompts and experiments cost a request?"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from benchmarks.report import Row, percentile
from benchmarks.wordings import compare
from roundhouse.core.chat import ChatRequest
from roundhouse.database import Address, Place
from roundhouse.experiments.design import Arm, Experiment, assign, unit_id
from roundhouse.experiments.sequential import units_per_arm
from roundhouse.experiments.simulate import interval_of_share, simulate, simulate_alike
from roundhouse.experiments.store import Exposure, Outcome, Store
from roundhouse.gateway.trials import Caller, Trials
from roundhouse.gateway.wordings import with_prompt
from roundhouse.prompts.builtin import builtin

__all__ = ["run"]

DESIGN = Experiment("e", (Arm("a"), Arm("b")), "ok", prompt="rag_query")
_CONTEXT = "The lighthouse of Varo was built in 1871 by Ines Calder. " * 35
_EXPOSURES = 1_000_000
_BATCH = 10_000
# In a process of its own, whose memory is that of the analysis alone.
_JUDGE = """
import sys, time
from pathlib import Path
from benchmarks.experiments import DESIGN
from roundhouse.database import Address
from roundhouse.experiments.store import Store
from roundhouse.experiments.verdict import judge
from roundhouse.gateway.judging import ANALYSIS_S, data_of
store = Store(Address(sys.argv[1]) if "://" in sys.argv[1] else Path(sys.argv[1]), limit_s=ANALYSIS_S)
began = time.perf_counter()
judge(DESIGN, data_of(store, DESIGN), DESIGN.weights)
spent = time.perf_counter() - began
# Not ru_maxrss, which a child takes over from its parent.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(spent, int(peak.split()[1]) * 1024 / 1e6)
"""


def run() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [*_truth(), *_wordings(Path(folder)), *_cost(Path(folder)), *_analysis(Path(folder) / "million.sqlite")]


def _truth() -> list[Row]:
    same = simulate(Random(1), rates=(0.5, 0.5), experiments=2000, most_units=5000)
    _, each = units_per_arm(0.5, 0.6, 0.05, 0.8)
    other = simulate(Random(2), rates=(0.5, 0.6), experiments=2000, most_units=each + 50, planned=2 * each)
    rng = Random(4)
    skewed = simulate_alike(rng, lambda: rng.lognormvariate(0, 1.5), share=0.1, experiments=2000, most_units=2000)
    false, found, uneven = same.decided / 2000, other.higher / 2000, skewed.decided / 2000
    return [
        Row("A/A, 2,000 experiments, looks every 50: false winners", _share(same.decided), "<= 5 %", false <= 0.05),
        Row(
            "A/A, 2,000 of log-normal seconds at 90 to 10, looks every 50: false winners",
            _share(skewed.decided),
            "<= 5 %",
            uneven <= 0.05,
        ),
        Row(f"A/B, 10 points, {each} units an arm: found", _share(other.higher), ">= 80 %", found >= 0.8),
    ]


def _wordings(folder: Path) -> list[Row]:
    told = compare(folder, 400)
    inside = told["comparisons"][0]["by_intention"]["interval"]
    measured = f"{told['winner'] or 'nobody'} wins; worse - trained {inside['estimate']:+.2f}"
    interval = f"[{inside['low']:+.2f}, {inside['high']:+.2f}]"
    ratio = f"sample ratio e-value {told['sample_ratio']['by_intention']:.2g}"
    return [Row("400 questions, trained wording against a worse one", f"{measured} {interval}, {ratio}", "trained wins",
                told["winner"] == "trained")]  # fmt: skip


def _cost(folder: Path) -> list[Row]:
    """Resolving, assigning, checking, rendering; nothing is sent."""
    Store(folder / "cost.sqlite").start(DESIGN, 1.0)
    trials = Trials({"e": DESIGN}, folder / "cost.sqlite", lambda route: ("demo", "demo"))
    catalog, values, spans = builtin(), {"context": _CONTEXT, "question": "Who?"}, []
    for number in range(5000):
        began = time.perf_counter()
        enrolled = trials.enrol(ChatRequest(()), "rag_query", Caller(f"u{number}"), 2000, str(number))
        assert enrolled is not None
        request = with_prompt(catalog, enrolled.prompt, values, enrolled.request)
        assert request.wording is not None
        request.wording.word(request, "mistral", ("demo",))
        spans.append((time.perf_counter() - began) * 1e6)
    half = percentile(spans, 0.5)
    return [Row("resolve, assign and render, 2,000 characters, p50", f"{half:.0f} us", "<= 50 us", half <= 50)]


def _analysis(place: Place) -> list[Row]:
    """Of a place that is new."""
    store, rng = Store(place, limit_s=60.0), Random(3)
    run = store.start(DESIGN, 1.0)
    for _ in range(_EXPOSURES // _BATCH):
        exposures, outcomes = [], []
        for _ in range(_BATCH):
            unit, number = f"u{rng.randrange(_EXPOSURES)}", rng.getrandbits(62)
            arm, hashed = assign(run.salt, unit, run.weights).arm, unit_id(run.salt, unit)
            exposures.append(Exposure(number, "e", hashed, arm, arm, "1:m", 0.5, 0.0, 1.0))
            outcomes.append(Outcome(hashed, number, "ok", float(rng.random() < 0.5), 1.0))
        store.write(exposures, outcomes)
    store.close()
    where = place.url if isinstance(place, Address) else str(place)
    ended = subprocess.run([sys.executable, "-c", _JUDGE, where], check=True, capture_output=True, text=True)
    spent, peak = map(float, ended.stdout.split())
    return [
        Row("1,000,000 exposures, analysed", f"{spent:.1f} s", "<= 5 s", spent <= 5),
        Row("memory of that, at its peak", f"{peak:.0f} MB", "<= 300 MB", peak <= 300),
    ]


def _share(hits: int) -> str:
    low, high = interval_of_share(hits, 2000)
    return f"{hits / 2000:.1%} [{low:.1%}, {high:.1%}]"


if __name__ == "__main__":  # the analysis over an empty PostgreSQL, whose URL is given
    for row in _analysis(Address(sys.argv[1])):
        print(row.what, row.measured, row.budget, sep=" | ")
