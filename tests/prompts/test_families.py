"""Families are recognised by what a model says of itself, and lose no word when turns are fitted to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.config.target import FAMILY_NAMES
from roundhouse.core.chat import Message, ToolCall
from roundhouse.prompts.families import DEFAULT, FAMILIES, SystemRole, fit_roles, recognise

BY_NAME = {family.name: family for family in FAMILIES}


def test_the_configuration_knows_the_families() -> None:
    assert tuple(BY_NAME) == FAMILY_NAMES


@pytest.mark.parametrize(
    ("name", "architecture", "template", "family"),
    [
        ("mistral:7b", "llama", "[INST] {{ .Prompt }} [/INST]", "mistral"),
        ("x.gguf", "llama", "<|start_header_id|>system", "llama3"),
        ("llama3.1:8b", "llama", "", "llama3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "", "", "llama3"),
        ("phi3:mini", "phi3", "<|user|>{{ .Prompt }}<|end|>", "phi3"),
        ("gemma2:9b", "gemma2", "", "gemma2"),
        ("google/gemma-2-9b-it", "", "", "gemma2"),
        ("qwen2.5:7b", "qwen2", "<|im_start|>system", "qwen2.5"),
        ("Mistral_7B_Q4.gguf", "", "", "mistral"),
        ("something", "mamba", "{{ messages }}", "default"),
        ("", "", "", "default"),
    ],
)
def test_a_model_is_recognised(name: str, architecture: str, template: str, family: str) -> None:
    assert recognise(name, architecture, template).name == family


def test_a_system_text_goes_into_the_first_user_turn_where_there_is_no_place_for_it() -> None:
    turns = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"))
    assert fit_roles(turns, BY_NAME["gemma2"]) == (Message("user", "s\n\nu"), Message("assistant", "a"))
    assert fit_roles(turns, BY_NAME["llama3"]) == turns
    assert fit_roles((Message("system", "s"),), BY_NAME["phi3"]) == (Message("user", "s"),)


def test_neighbours_of_one_role_are_joined_but_not_across_tool_calls() -> None:
    call = Message("assistant", "", tool_calls=(ToolCall(0, "c", "f", "{}"),))
    turns = (Message("user", "a"), Message("user", "b"), call, Message("assistant", "c"))
    assert fit_roles(turns, BY_NAME["mistral"]) == (Message("user", "a\n\nb"), call, Message("assistant", "c"))


TURNS = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text("abc \n", min_size=1)), min_size=1
)


@given(TURNS, st.sampled_from([DEFAULT, *FAMILIES]))
def test_no_word_is_lost_and_the_order_of_turns_is_kept(turns: list[Message], family: object) -> None:
    assert isinstance(family, type(DEFAULT))
    fitted = fit_roles(turns, family)
    before, after = ("".join(turn.content for turn in some).replace("\n", "") for some in (turns, fitted))
    assert sorted(before) == sorted(after)
    if family.system_role is SystemRole.FOLDED:
        assert all(turn.role != "system" for turn in fitted)
    else:
        assert before == after
    assert fit_roles(fitted, family) == fitted
