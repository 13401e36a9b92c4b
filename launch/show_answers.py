"""Show examples whose targets are labels, numbers, tags, spans or numbers of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from t2t.launch import marks
from t2t.vocabularies import Vocabulary


def shown(features: Mapping[str, Any], vocabulary: Vocabulary, targets: Any) -> list[tuple[str, list[marks.Piece]]]:
    """Return (label, pieces) pairs: the text, or the two texts of a pair (by token type), and the expected answer. Or all texts that are compared.

    features: truncated to the model's lengths. targets: the SeqIO vocabulary of the targets, see `t2t.data.answers`.
    """
    from t2t.data.answers import Texts, Values

    inputs = np.asarray(features["inputs"])
    if isinstance(targets, Texts):
        numbers = np.asarray(features["targets"])
        return [
            (f"text {number}", marks.plain(inputs[numbers == number].tolist(), vocabulary))
            for number in range(int(numbers.max(initial=-1)) + 1)
        ]
    types = np.asarray(features.get("types", np.zeros_like(inputs)))
    found = [
        (f"type {kind}" if "types" in features else "text", marks.plain(inputs[types == kind].tolist(), vocabulary))
        for kind in (0, 1)
        if (types == kind).any()
    ]
    if isinstance(targets, Values):
        return [*found, _values(features, targets)]
    places = np.flatnonzero(features["weights"])
    ids = [int(i) for i in np.asarray(features["targets"])[places]]
    labels = getattr(targets, "labels", None)
    if labels is None:
        first, last = ids if len(ids) == 2 else (0, 0)
        answer = (
            marks.plain(inputs[first : last + 1].tolist(), vocabulary) if first else [marks.Piece("none", "special")]
        )
        return [*found, (f"span, tokens {first} to {last}", answer)]
    if targets.of == "text":
        return [*found, ("label", [marks.Piece(", ".join(labels[i] for i in ids) or "none", "text")])]
    ends = [*places[1:], len(inputs)]
    words = [vocabulary.decode(inputs[a:b]).strip() for a, b in zip(places, ends, strict=True)]
    tagged = " ".join(f"{word}/{labels[i]}" for word, i in zip(words, ids, strict=True))
    return [*found, ("words with their labels", [marks.Piece(tagged, "text")])]


def _values(features: Mapping[str, Any], targets: Any) -> tuple[str, list[marks.Piece]]:
    """Return the labels of a text, or its numbers with their names."""
    values = np.asarray(features["values"]).tolist()
    if not np.any(features["weights"]):
        said = "unknown"
    elif targets.output == "labels":
        said = ", ".join(label for label, value in zip(targets.labels, values, strict=True) if value) or "none"
    else:
        names = targets.labels or ("",)
        said = ", ".join(f"{name} {value:g}".strip() for name, value in zip(names, values, strict=True))
    return targets.output, [marks.Piece(said, "text")]
