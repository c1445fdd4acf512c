"""Training works at small scale: it learns, stops and goes on where it was; what it exports can be loaded."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch")

from training.data import Shape, make_group  # noqa: E402
from training.tokenizer import PHRASES, build  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build(groups=200).save_pretrained(folder)
    return folder


def test_the_tokenizer_gives_back_what_it_was_given_and_keeps_numbers_whole(tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    rng = Random(1)
    for _ in range(50):
        text = make_group(rng, "train", Shape()).context + " é 東京"
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer.tokenize(" 1871") == ["Ġ1871"]
    assert [len(tokenizer.tokenize(phrase)) for phrase in PHRASES] == [1, 1, 1]


@pytest.mark.timeout(300)  # two starts of torch, each of which may take its time on a busy machine
def test_a_run_learns_resumes_and_is_exported(
    tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roundhouse.store.headers import read_gguf
    from training import export

    run = tmp_path / "run"
    small = [
        "--hidden",
        "64",
        "--feed-forward",
        "64",
        "--layers",
        "2",
        "--heads",
        "4",
        "--kv-heads",
        "2",
        "--groups",
        "2",
    ]

    def train(minutes: str) -> list[str]:
        command = [sys.executable, "-m", "training.train", "--tokenizer", str(tokenizer_folder), "--run", str(run)]
        command += ["--minutes", minutes, "--copy-steps", "20", "--threads", "1", *small]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    first = int(train("0.05")[-1].split()[2])
    second = int(train("0.08")[-1].split()[2])
    assert 0 < first < second
    out = tmp_path / "out"
    arguments = ["export", "--run", str(run), "--tokenizer", str(tokenizer_folder), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    export.main()
    facts = read_gguf(out / "demo-q8_0.gguf")
    assert (facts.layers, facts.hidden, facts.kv_heads, facts.quantisation) == (2, 64, (2, 2), "Q8_0")
    assert read_gguf(out / "demo-f16.gguf").quantisation == "F16"


def test_the_lean_forward_pass_is_that_of_transformers() -> None:
    from training.model import Forward, block_mask, create

    model = create(300, hidden=64, feed_forward=96, layers=2, heads=4, kv_heads=2, seed=1).eval()
    ids = torch.randint(0, 300, (2, 20))
    forward = Forward(model, torch.float32)
    position = torch.arange(20)[None].expand(2, 20)
    with torch.no_grad():
        mine = forward.logits(forward.hidden(ids, position, block_mask(torch.zeros_like(ids), torch.float32)))
        theirs = model(ids).logits
    assert torch.allclose(mine, theirs, atol=1e-4)


def test_a_branch_sees_the_context_and_itself_only() -> None:
    from training.model import block_mask

    seen = block_mask(torch.tensor([[0, 0, 1, 1, 2]]), torch.float32)[0, 0, 0] == 0
    assert seen[4].tolist() == [True, True, False, False, True]
    assert seen[3].tolist() == [True, True, True, True, False]
