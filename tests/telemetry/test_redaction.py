"""What is written of prompts and answers: nothing that a rule knows, everything else."""

import re
from collections.abc import Callable

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


WIDE = {code: code + 0xFEE0 for code in range(33, 127)}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ann@example.com", "email"),
        ("4111 1111 1111 1111", "card"),
        ("4111-1111-1111-1111", "card"),
        ("sk-abcdefghijklmnop1234", "secret"),
        ("+49 170 1234567", "phone"),
        ("192.168.1.10", "ip"),
        ("DE89 3704 0044 0532 0130 00", "iban"),
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.translate(WIDE),
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.replace(" ", "\u2009"),
        lambda text: text.replace("-", "\u2013"),
        lambda text: "\u200b".join(text),
        lambda text: text[:4] + "\u00ad" + text[4:],
        lambda text: "".join(chr(0x660 + int(char)) if char.isdigit() else char for char in text),
    ],
    ids=["wide", "no-break space", "thin space", "en dash", "zero width", "soft hyphen", "arabic digits"],
)
def test_other_forms_of_the_same_characters_hide_nothing(text: str, name: str, form: Callable[[str], str]) -> None:
    assert Redaction()(f"so: {form(text)} \u00fc!") == f"so: [{name}] \u00fc!"


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_of_what_no_rule_finds_nothing_is_changed(text: str) -> None:
    """Reading it as a person does is for the search alone."""
    shown = Redaction()(text)
    assert shown == text or "[" in shown


def test_a_small_iban_goes_and_words_that_look_like_one_stay() -> None:
    assert Redaction()("de89370400440532013000") == "[iban]"
    assert Redaction()("see ab12 here this also then") == "see ab12 here this also then"


def test_a_card_with_dots_goes_and_a_long_number_stays() -> None:
    assert Redaction()("4111.1111.1111.1111") == "[card]"
    assert Redaction()("0.5772 1.4142 2.7183") == "0.5772 1.4142 2.7183"


def test_a_pattern_of_ones_own_is_for_the_text_as_it_is() -> None:
    assert Redaction((), {"dash": "\u2013"})("a\u2013b-c") == "a[dash]b-c"
