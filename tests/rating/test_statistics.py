"""The statistics of ratings against published examples, exact conditions and simulation."""

import math
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roundhouse.experiments.sequential import preference_evidence
from roundhouse.rating.agreement import agreement, kappa, krippendorff
from roundhouse.rating.judgement import Comparison, Judgement, Outcome, Verdict, counted, outcome
from roundhouse.rating.preference import Standing, preferences, share_interval
from roundhouse.rating.strength import fit, strengths

COUNTS = st.integers(0, 300)
FIRST, SECOND, TIE, BAD = Outcome.FIRST, Outcome.SECOND, Outcome.TIE, Outcome.BOTH_BAD


def said(number: int, result: Outcome | None, *, rater: str = "ada", pair: str = "ab", question: str = "") -> Judgement:
    compared = Comparison(number, question or f"q{number}", pair[0], pair[1])
    return Judgement(number, compared, rater, result, pair[0], "", 1.0, 0.0)


@given(COUNTS, COUNTS, st.sampled_from([0.2, 0.05, 0.01]))
def test_the_interval_leaves_one_half_out_exactly_where_the_test_decides(wins: int, losses: int, alpha: float) -> None:
    share = share_interval(wins, losses, alpha)
    assert 0 <= share.low <= share.estimate <= share.high <= 1
    assert (share.low < 0.5 < share.high) == (preference_evidence(wins, losses) < 1 / alpha)


def test_the_interval_narrows_to_the_truth() -> None:
    assert share_interval(0, 0, 0.05).low == 0
    wide, narrow = share_interval(30, 10, 0.05), share_interval(3000, 1000, 0.05)
    assert wide.low < narrow.low < 0.75 < narrow.high < wide.high
    assert narrow.high - narrow.low < 0.06


def test_a_rater_who_tosses_a_coin_names_a_winner_in_at_most_one_of_twenty_files() -> None:
    """However often one looks: 600 files of 200 judgements, a look after each."""
    chance, false = Random(7), 0
    for _ in range(600):
        wins = 0
        for n in range(1, 201):
            wins += chance.random() < 0.5
            if preference_evidence(wins, n - wins) >= 20:
                false += 1
                break
    assert false <= 30


def test_a_pair_is_decided_at_a_level_that_all_pairs_share() -> None:
    judgements = [said(number, FIRST) for number in range(8)]
    (alone,) = preferences(["a", "b"], judgements, alpha=0.05, margin=0)
    assert (alone.wins, round(alone.evidence, 1), alone.standing) == (8, 28.4, Standing.FIRST)
    three = preferences(["a", "b", "c"], judgements, alpha=0.05, margin=0)
    assert [one.standing for one in three] == [Standing.OPEN] * 3
    assert three[0].alpha == pytest.approx(0.05 / 3)


def test_no_difference_beyond_the_margin_is_a_decision_too() -> None:
    judgements = [said(number, FIRST if number % 2 else SECOND) for number in range(600)]
    assert preferences(["a", "b"], judgements, alpha=0.05, margin=0.1)[0].standing is Standing.EQUIVALENT
    assert preferences(["a", "b"], judgements, alpha=0.05, margin=0.0)[0].standing is Standing.OPEN


def test_ties_are_told_and_decide_nothing() -> None:
    judgements = [said(1, FIRST), *(said(number, TIE) for number in range(2, 90)), said(90, BAD)]
    (found,) = preferences(["a", "b"], judgements, alpha=0.05, margin=0.1)
    assert (found.wins, found.losses, found.ties, found.both_bad, found.judged) == (1, 0, 88, 1, 90)
    assert found.standing is Standing.OPEN


def test_a_second_opinion_of_the_same_answers_is_no_new_evidence() -> None:
    told = [said(1, None), said(1, SECOND, rater="bob"), said(1, FIRST, rater="eve"), said(2, TIE)]
    assert [(one.rater, one.outcome) for one in counted(told)] == [("bob", SECOND), ("ada", TIE)]


@given(st.sampled_from(Verdict), st.booleans())
def test_the_variant_that_wins_does_not_depend_on_its_side(verdict: Verdict, first_is_left: bool) -> None:
    turned = {Verdict.LEFT: Verdict.RIGHT, Verdict.RIGHT: Verdict.LEFT}.get(verdict, verdict)
    mirrored = outcome(turned, first_is_left=not first_is_left)
    assert outcome(verdict, first_is_left=first_is_left) is mirrored


def test_kappa_of_two_raters_as_in_the_books() -> None:
    """20 and 15 agreed on, 5 and 10 not: 0.7 observed, 0.5 expected."""
    pairs = [(1.0, 1.0)] * 20 + [(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 10 + [(0.0, 0.0)] * 15
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([(1.0, 1.0)] * 9) is None
    assert kappa([]) is None


def test_alpha_of_four_raters_with_gaps_is_that_of_krippendorffs_own_example() -> None:
    """Krippendorff 2011, part C: 0.743."""
    rows = {"a": "1233214 12...", "b": "123322412 5.3", "c": ".33323422 51.", "d": "123324412 51."}
    told = {name: row.replace(" ", "") for name, row in rows.items()}
    units = [{name: float(row[at]) for name, row in told.items() if row[at] != "."} for at in range(12)]
    found = krippendorff(units)
    assert found == pytest.approx(0.743, abs=0.001)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(Outcome), st.sampled_from(Outcome)), min_size=1, max_size=40))
def test_agreement_does_not_depend_on_who_is_called_first(pairs: list[tuple[Outcome, Outcome]]) -> None:
    def of(names: tuple[str, str]) -> object:
        told = [said(n, one, rater=who) for n, pair in enumerate(pairs) for who, one in zip(names, pair, strict=True)]
        return agreement(told)

    one, other = of(("ada", "bob")), of(("bob", "ada"))
    assert one is not None
    assert one == other


def test_agreement_comes_with_an_interval_over_questions() -> None:
    chance = Random(3)
    told = []
    for number in range(60):
        truth = chance.choice([FIRST, SECOND])
        for rater in ("ada", "bob"):
            told.append(said(number, truth if chance.random() < 0.85 else TIE, rater=rater))
    found = agreement(told)
    assert found is not None
    assert found.alpha.value is not None
    assert found.alpha.low is not None
    assert found.alpha.high is not None
    assert found.alpha.low < found.alpha.value < found.alpha.high
    assert found.kappas["ada", "bob"].n == 60
    few = agreement(told[:10])
    assert few is not None
    assert (few.alpha.low, few.alpha.n) == (None, 5)
    assert agreement([one for one in told if one.rater == "ada"]) is None


@given(st.lists(st.tuples(*[st.integers(1, 30)] * 3), min_size=6, max_size=6))
def test_strengths_expect_exactly_what_was_seen(table: list[tuple[int, int, int]]) -> None:
    """The conditions of the maximum: expected and observed score of each variant, and expected and observed ties."""
    names = "abcd"
    counts = dict(zip(combinations(names, 2), table, strict=True))
    logs, nu = fit(names, counts)
    assert sum(logs.values()) == pytest.approx(0, abs=1e-9)
    expected, seen, ties = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0), 0.0
    for (one, two), (wins, losses, tied) in counts.items():
        p, q = math.exp(logs[one]), math.exp(logs[two])
        total = p + q + nu * math.sqrt(p * q)
        tie = nu * math.sqrt(p * q) / total
        n = wins + losses + tied
        for name, worth, won in ((one, p, wins), (two, q, losses)):
            expected[name] += n * (worth / total + tie / 2)
            seen[name] += won + tied / 2
        ties += n * tie
    assert expected == pytest.approx(seen, rel=1e-5)
    assert ties == pytest.approx(sum(tied for _, _, tied in table), rel=1e-5)


def test_two_variants_without_ties_have_the_odds_that_were_seen() -> None:
    logs, nu = fit("ab", {("a", "b"): (30, 10, 0)})
    assert logs["a"] - logs["b"] == pytest.approx(math.log(3))
    assert nu == 0


def test_the_ranking_has_intervals_and_is_finite_where_one_always_wins() -> None:
    told = []
    for number in range(40):
        for pair in ("ab", "ac", "bc"):
            told.append(said(len(told), FIRST if number % 4 else TIE, pair=pair, question=f"q{number}"))
    found = strengths(["a", "b", "c"], told)
    assert found is not None
    assert [one.variant for one in found] == ["a", "b", "c"]
    assert all(one.low is not None and one.high is not None for one in found)
    assert all((one.low or 0) < one.points < (one.high or 0) < math.inf for one in found)
    assert sum(one.points for one in found) == pytest.approx(3000)
    few = strengths(["a", "b", "c"], [one for one in told if one.comparison.question in ("q0", "q1")])
    assert few is not None
    assert [(one.low, one.high) for one in few] == [(None, None)] * 3
    assert few[0].said.endswith(", too few questions for an interval")


def test_variants_that_no_judgement_connects_are_not_ranked() -> None:
    told = [said(1, FIRST, pair="ab"), said(2, FIRST, pair="cd")]
    assert strengths(["a", "b", "c", "d"], told) is None
    assert strengths(["a", "b", "c"], []) is None
