"""What is written of prompts and answers: nothing that a rule knows, everything else."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from roundhouse.telemetry.redaction import RULES, Redaction

redacted = Redaction()
AROUND = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40)
LETTERS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=20, max_size=40)


def between(before: str, what: str, after: str) -> str:
    """As words of a text: a rule need not see what is glued into another word."""
    return f"{before} {what}\n{after}"


@given(AROUND, st.emails(), AROUND)
def test_no_address_of_mail_is_left(before: str, mail: str, after: str) -> None:
    assume(mail not in before + after)
    assert mail not in redacted(between(before, mail, after))


@given(AROUND, st.ip_addresses(), AROUND)
def test_no_address_of_a_machine_is_left(before: str, address: object, after: str) -> None:
    assume(str(address) != "::")
    assert str(address) not in redacted(between(before, str(address), after)).split()


@given(AROUND, st.sampled_from(["sk-", "hf_", "ghp_", "rh-", "AKIA", "xoxb-", "Bearer "]), LETTERS, AROUND)
def test_no_key_is_left(before: str, prefix: str, key: str, after: str) -> None:
    assume(key not in before + after)
    assert key not in redacted(between(before, prefix + key, after))


@given(AROUND, st.sampled_from(["password: ", "api_key=", "token is ", '"secret": "']), LETTERS, AROUND)
def test_what_is_said_to_be_a_secret_is_not_left(before: str, said: str, secret: str, after: str) -> None:
    assume(secret not in before + after)
    assert secret not in redacted(between(before, said + secret, after))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pay to DE89 3704 0044 0532 0130 00 at once", "iban"),
        ("pay to GB82WEST12345698765432.", "iban"),
        ("card 4111 1111 1111 1111, 12/28", "card"),
        ("card 5500-0000-0000-0004", "card"),
        ("call +49 (0)30 1234567 now", "phone"),
        ("call 0171/2345678", "phone"),
        ("call (555) 123-4567", "phone"),
        ("postgres://app:hunter2@db/prod", "secret"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "secret"),
        ("http://10.0.0.7:8080/x", "ip"),
        ("at [fe80::1]:443", "ip"),
    ],
)
def test_a_rule_takes_out_what_it_is_for_and_leaves_its_name(text: str, name: str) -> None:
    said = redacted(text)
    assert f"[{name}]" in said
    assert text.split()[0] in said or name in ("secret", "ip")
    assert redacted(said) == said


def test_what_no_rule_is_for_stays() -> None:
    text = "The harbour office opened on 2026-11-24 at 12:30:45 with 1,250 visitors, v1.2.3, chapter 4 :: part two."
    assert redacted(text) == text


def test_rules_are_chosen_and_added_by_name() -> None:
    redaction = Redaction(("email",), {"case": r"CASE-\d+"})
    assert redaction("a@b.example asks of CASE-12 from 10.0.0.1") == "[email] asks of [case] from 10.0.0.1"
    with pytest.raises(KeyError, match="face"):
        Redaction(("face",))
    with pytest.raises(re.error):
        Redaction((), {"broken": "("})


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        " 1",
        ".1",
        "a.",
        ":",
        "@",
        "-",
        "A1B2 ",
        "eyJaaaaaaaa.",
        "://a:",
        "password ",
        "-----BEGIN PRIVATE KEY-----\n",
    ],
)
def test_no_text_makes_a_rule_slow(name: str, piece: str) -> None:
    """Every pattern is bounded; one that went back over the whole text at each place would not end."""
    assert RULES[name].pattern.sub("", piece * ((1 << 18) // len(piece))) is not None
