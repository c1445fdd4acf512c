"""The held-out questions: written once, shipped with the package, never trained or tuned on.

python -m training.heldout --out roundhouse/demo/heldout.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from training.data import QuestionKind
from training.validation import questions

__all__ = ["rows"]

_SEED = 20_261_123
# (kind, sentences of the context, questions); 0 sentences = 1 to 4, evenly.
_PARTS: tuple[tuple[QuestionKind, int, int], ...] = (
    ("answerable", 1, 60),
    ("answerable", 2, 60),
    ("answerable", 3, 60),
    ("answerable", 4, 60),
    ("entity_absent", 0, 80),
    ("fact_absent", 0, 80),
    ("off_topic", 0, 40),
)


def rows() -> list[dict[str, object]]:
    """Each with id, kind, sentences, context, question and the one right answer."""
    found: list[dict[str, object]] = []
    for part, (kind, sentences, number) in enumerate(_PARTS):
        for group, case in questions("heldout", _SEED + part, kind, sentences, number):
            found.append(
                {
                    "id": f"{kind}-{len(found):03d}",
                    "kind": kind,
                    "sentences": group.sentences,
                    "context": group.context,
                    "question": case.question,
                    "answer": case.answer,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    lines = [json.dumps(row, ensure_ascii=False) for row in rows()]
    asked.out.write_text("\n".join(lines) + "\n")
    print(f"{asked.out}: {len(lines)} questions")


if __name__ == "__main__":
    main()
