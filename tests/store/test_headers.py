"""GGUF headers: facts from bytes, and for anything else one typed error, quickly and in little memory."""

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roundhouse.core.errors import BadHeader
from roundhouse.store.headers import parse_gguf, read_gguf


def _small(path: Path, architecture: str = "llama") -> bytes:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv([2, 0])
    writer.add_context_length(512)
    writer.add_token_list([f"t{n}" for n in range(300)])
    writer.add_token_scores([0.0] * 5000)
    writer.add_chat_template("{{ x }}")
    writer.add_tensor("token_embd.weight", np.zeros((300, 64), np.float16))
    writer.add_tensor(
        "blk.0.attn_q.weight",
        gguf.quants.quantize(np.ones((64, 64), np.float32), gguf.GGMLQuantizationType.Q8_0),
        raw_dtype=gguf.GGMLQuantizationType.Q8_0,
    )
    writer.add_tensor("blk.1.attn_norm.weight", np.zeros(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return _small(tmp_path_factory.mktemp("gguf") / "small.gguf")


def test_facts_of_a_small_file(small: bytes) -> None:
    facts = parse_gguf(small, len(small))
    assert (facts.architecture, facts.layers, facts.hidden, facts.heads) == ("llama", 2, 64, 4)
    assert facts.kv_heads == (2, 0)
    assert (facts.key_length, facts.value_length, facts.context, facts.vocabulary) == (16, 16, 512, 300)
    assert facts.weight_bytes == 300 * 64 * 2 + 64 * 64 // 32 * 34 + 64 * 4
    assert facts.tensor_bytes == {"F16": 38400, "Q8_0": 4352, "F32": 256}
    assert facts.layer_bytes == (4352, 256)
    assert (facts.tied_embeddings, facts.chat_template) == (True, "{{ x }}")


def test_a_model_that_sees_its_text_at_once_keeps_no_cache(tmp_path: Path) -> None:
    data = _small(tmp_path / "bert.gguf", "bert")
    assert parse_gguf(data, len(data)).kv_heads == (0, 0)


def test_the_library_that_wrote_it_agrees_on_the_demo_model(demo_gguf: Path) -> None:
    facts = read_gguf(demo_gguf)
    reader = gguf.GGUFReader(demo_gguf)
    assert facts.weight_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert (facts.name, facts.licence, facts.quantisation) == ("Roundhouse demo", "apache-2.0", "F16")


def test_a_cut_file_says_how_much_is_missing(tmp_path: Path, demo_gguf: Path) -> None:
    data = demo_gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadHeader, match=r"is cut: 5\.1 MB of 10\.3 MB are missing; download it again"):
        read_gguf(cut)


def test_a_file_cut_anywhere_is_refused(small: bytes) -> None:
    for length in range(0, len(small) - 32, 997):
        with pytest.raises(BadHeader):
            parse_gguf(small[:length], length)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>not found</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n" * 2, "a git-lfs pointer"),
        (b"PK\x03\x04" + b"\0" * 40, "a zip or PyTorch file"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "GGUF version 9"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"hello, this is no model", "it begins with b'hello, t'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "it claims"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 40), "a text claims"),
    ],
)
def test_what_is_no_model_says_what_it_looks_like(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(BadHeader, match=said) as caught:
        read_gguf(path)
    assert caught.value.path == str(path)


def test_missing_files_and_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadHeader, match="there is no model file"):
        read_gguf(tmp_path / "none.gguf")
    with pytest.raises(BadHeader, match="is a folder"):
        read_gguf(tmp_path)


def test_a_claim_of_a_huge_array_costs_no_memory() -> None:
    """The header lies: an array of 2^61 numbers, in a file of 100 bytes."""
    key = b"general.x"
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    data += struct.pack("<IIQ", 9, 4, 1 << 61) + b"\0" * 40
    tracemalloc.start()
    with pytest.raises(BadHeader, match="an array claims"):
        parse_gguf(data, len(data))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_overlapping_tensors_are_refused(small: bytes) -> None:
    name = b"blk.0.attn_q.weight"
    place = small.index(name) + len(name) + 4 + 16 + 4
    broken = small[:place] + struct.pack("<Q", 0) + small[place + 8 :]
    with pytest.raises(BadHeader, match="overlap"):
        parse_gguf(broken, len(broken))


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadHeader):
        parse_gguf(b"GGUF\x03\0\0\0" + data, len(data) + 8)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_never_anything_else(small: bytes, data: st.DataObject) -> None:
    header = small.index(b"blk.1.attn_norm.weight") + 60
    broken = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    try:
        parse_gguf(bytes(broken), len(broken))
    except BadHeader as error:
        assert error.offset >= 0  # noqa: PT017
