"""A licence is never broken by accident: the policy, and what was accepted."""

import hashlib
from pathlib import Path

import pytest

from roundhouse.core.errors import LicenceNotAccepted, LicenceRefused
from roundhouse.store.catalogue import DEFAULT_MODEL, Catalogue
from roundhouse.store.layout import Layout
from roundhouse.store.licences import Acceptances, Commercial, LicencePolicy, licence_id, licence_of


def test_the_default_model_may_be_used_commercially() -> None:
    entry = Catalogue()[DEFAULT_MODEL]
    assert (entry.licence, licence_of(entry.licence).commercial) == ("apache-2.0", Commercial.YES)


def test_every_catalogue_licence_is_known_and_every_entry_can_be_planned() -> None:
    for name, entry in Catalogue().items():
        assert licence_of(entry.licence).commercial is not Commercial.UNKNOWN, name
        if not entry.builtin:
            facts = entry.facts("q4_k_m")
            assert facts is not None
            assert facts.embedding_bytes + facts.output_bytes + sum(facts.layer_bytes) <= facts.weight_bytes


def test_a_model_that_slides_over_a_window_is_planned_with_it() -> None:
    """Every other layer of Gemma 2 keeps 4,096 tokens at most."""
    facts = Catalogue()["gemma-2-9b"].facts("q4_k_m")
    assert facts is not None
    assert set(facts.windows[::2]) | set(facts.windows[1::2]) == {0, 4096}
    assert facts.windows.count(4096) == 21


def test_what_metadata_say_of_a_licence_is_made_fit_to_be_shown() -> None:
    assert licence_id("  Apache-2.0\n") == "apache-2.0"
    assert licence_id("\x1b[31mMIT") == "?[31mmit"
    assert licence_id(["a", "b"]) == "['a', 'b']"
    assert len(licence_id("x" * 1000)) == 80


def test_a_users_entry_stands_beside_and_before_the_built_in_ones() -> None:
    catalogue = Catalogue({"demo": {"licence": "mit"}, "ours": {"gguf": "acme/ours", "licence": "apache-2.0"}})
    assert catalogue["demo"].licence == "mit"
    assert catalogue["ours"].gguf == "acme/ours"
    assert DEFAULT_MODEL in catalogue


@pytest.mark.parametrize("licence", ["gemma", "llama3.1", "cc-by-nc-4.0", "made-up", ""])
def test_required_commercial_use_refuses_conditions_and_what_is_unknown(licence: str) -> None:
    with pytest.raises(LicenceRefused) as told:
        LicencePolicy(require_commercial=True).check("m", licence)
    assert told.value.rule == "licences.require_commercial"
    assert licence_of(licence).said in str(told.value)


def test_conditions_that_somebody_has_read_are_allowed_by_name() -> None:
    LicencePolicy(allow=frozenset({"gemma"}), require_commercial=True).check("m", "Gemma")
    with pytest.raises(LicenceRefused):
        LicencePolicy(allow=frozenset({"cc-by-nc-4.0"}), require_commercial=True).check("m", "cc-by-nc-4.0")


def test_deny_is_stronger_than_allow_and_allow_is_closed() -> None:
    policy = LicencePolicy(allow=frozenset({"mit", "gemma"}), deny=frozenset({"gemma"}))
    policy.check("m", "mit")
    for licence, rule in (("gemma", "licences.deny"), ("apache-2.0", "licences.allow")):
        with pytest.raises(LicenceRefused) as told:
            policy.check("m", licence)
        assert told.value.rule == rule


def test_an_acceptance_is_kept_with_date_and_hash_and_holds_for_that_licence_alone(tmp_path: Path) -> None:
    kept = Acceptances(Layout(tmp_path / "store"))
    with pytest.raises(LicenceNotAccepted, match="models accept gemma-2-9b"):
        kept.require("gemma-2-9b", "gemma")
    made = kept.record("gemma-2-9b", "gemma", "the terms", "a page", "ada")
    assert made.text_sha256 == hashlib.sha256(b"the terms").hexdigest()
    assert made.when[:2] == "20"
    kept.require("gemma-2-9b", "gemma")
    kept.require("anything", "apache-2.0")
    with pytest.raises(LicenceNotAccepted):
        kept.require("gemma-2-9b", "llama3.1")
