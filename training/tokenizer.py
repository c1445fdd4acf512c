"""The demo model's tokenizer: byte-level BPE, a token for every integer 0-2099, and a few phrase tokens.

A number of one token is copied whole, where digits get mixed up. The number tokens are ordinary merges, left to right
(`Ġ`,`1` -> `Ġ1`, `Ġ1`,`8` -> `Ġ18`, ...), so every BPE implementation builds them. Phrase tokens (the prompt's fixed
tail, the refusal) are user-defined tokens: they make a prompt of 90 tokens one of 30.

    python -m training.tokenizer --out training/runs/tokenizer
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.data import REFUSAL, Shape, make_group
from training.prompts import QUESTION_LABEL, TAIL, other_wording

__all__ = ["BOS", "CHAT_TEMPLATE", "EOS", "PHRASES", "build"]

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
SPECIALS = (UNK, BOS, EOS, "[INST]", "[/INST]")
PHRASES = (TAIL, " " + REFUSAL, QUESTION_LABEL)
_LARGEST_NUMBER = 2099
_WORDS = 1600

# Mistral's form. System text is folded into the next user turn; an answer begins with a space, which is its own.
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- set ns = namespace(system='') %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{%- set ns.system = ns.system + message['content'] + '\\n\\n' %}"
    "{%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] + eos_token }}"
    "{%- else %}{{- '[INST] ' + ns.system + message['content'] + '[/INST]' }}{%- set ns.system = '' %}"
    "{%- endif %}"
    "{%- endfor %}"
)


def build(seed: int = 7, groups: int = 12_000) -> PreTrainedTokenizerFast:
    """The tokenizer, learned from generated text; the same seed gives the same one."""
    rng = Random(seed)
    texts: list[str] = []
    for _ in range(groups):
        group = make_group(rng, "train", Shape())
        texts += [" " + group.context, *(f" {case.question}" for case in group.cases)]
    texts += [other_wording(rng, "", "") for _ in range(200)]
    texts += ["Summarize the following text in 2-3 sentences:", REFUSAL, TAIL] * 50
    trained = _with_numbers(_words(texts))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in PHRASES])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _words(texts: list[str]) -> Tokenizer:
    """BPE over everything but digits, which stay single so that no merge of theirs competes with the numbers'."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS, special_tokens=list(SPECIALS), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _with_numbers(words: Tokenizer) -> Tokenizer:
    spec = json.loads(words.to_str())
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    merges: list[list[str]] = []
    for number in sorted((str(n) for n in range(_LARGEST_NUMBER + 1)), key=lambda text: (len(text), text)):
        token = "Ġ" + number
        merges.append([token[:-1], token[-1]])
        vocabulary.setdefault(token, len(vocabulary))
    spec["model"]["merges"] += merges
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    tokenizer = build(asked.seed)
    tokenizer.save_pretrained(asked.out)
    print(f"{asked.out}: {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
