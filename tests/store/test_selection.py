"""Of a repository's many files, those of one model are taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundhouse.core.errors import StoreError
from roundhouse.store.selection import quantisations, select

GGUFS = ["README.md", "M-7B-Q4_K_M.gguf", "M-7B-Q8_0.gguf", "m-7b-iq3_xs.gguf", "M-7B-f16.gguf", "mmproj-F16.gguf"]
SHARDS = ["m-q4_k_m-00002-of-00002.gguf", "m-q4_k_m-00001-of-00002.gguf", "m-q8_0-00001-of-00002.gguf"]
FOLDER = ["config.json", "model.safetensors", "tokenizer.json", "consolidated.safetensors", "pytorch_model.bin", "x.py"]


def test_quantisations_are_told_apart_in_any_case() -> None:
    assert set(quantisations(GGUFS)) == {"Q4_K_M", "Q8_0", "IQ3_XS", "F16"}


def test_the_default_is_q4_k_m_and_another_is_asked_for_in_any_case() -> None:
    assert select(GGUFS).files == ("M-7B-Q4_K_M.gguf", "README.md")
    assert select(GGUFS, quantisation="q8_0").variant == "q8_0"


def test_an_unknown_quantisation_is_told_what_there_is() -> None:
    with pytest.raises(StoreError, match=r"no Q2_K.*F16, IQ3_XS, Q4_K_M, Q8_0"):
        select(GGUFS, quantisation="Q2_K", what="acme/m")


def test_parts_of_one_model_are_taken_together_in_order_and_only_whole() -> None:
    assert select(SHARDS).files == ("m-q4_k_m-00001-of-00002.gguf", "m-q4_k_m-00002-of-00002.gguf")
    with pytest.raises(StoreError, match="1 of the 2 parts"):
        select(SHARDS, quantisation="Q8_0")


def test_of_safetensors_only_what_runs_no_code() -> None:
    chosen = select(FOLDER)
    assert chosen.files == ("config.json", "model.safetensors", "tokenizer.json")
    assert chosen.left_out == ("pytorch_model.bin", "x.py")
    assert "x.py" in select(FOLDER, allow_code=True).files


def test_pickles_alone_are_refused_unless_asked_for() -> None:
    names = ["config.json", "pytorch_model.bin"]
    with pytest.raises(StoreError, match="only pickles"):
        select(names)
    assert select(names, allow_pickle=True).files == ("config.json", "pytorch_model.bin")


@given(st.lists(st.text(alphabet="aQ4_K.M-guf/0123of", max_size=30), max_size=8))
def test_any_names_end_in_a_choice_of_them_or_an_error(names: list[str]) -> None:
    try:
        chosen = select(names)
    except StoreError:
        return
    assert set(chosen.files) <= set(names)
