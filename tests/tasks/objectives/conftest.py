"""Vocabularies and texts to test every objective with."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from t2t.vocabularies import Bytes, SentencePiece, WordPiece

WORDS = [
    "the",
    "model",
    "reads",
    "a",
    "row",
    "of",
    "tokens",
    "and",
    "writes",
    "what",
    "was",
    "left",
    "out",
    "between",
    "two",
    "sentinels",
    "of",
    "it",
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Return texts of 1 to about 400 words."""
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size)) for size in [1, 2, 3, 5, 8, 13, 40, 90, 200, 400]]


@pytest.fixture(scope="session")
def sentencepiece_path(tmp_path_factory, texts) -> str:
    import sentencepiece

    prefix = tmp_path_factory.mktemp("vocabulary") / "small"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(prefix),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return f"{prefix}.model"


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    tokens = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(WORDS)), "##s"]
    path.write_text("\n".join(tokens))
    return WordPiece(path=str(path))


@pytest.fixture(scope="session", params=["bytes", "sentencepiece"])
def vocabulary(request, sentencepiece_path):
    """Return a t2t vocabulary with 100 sentinels."""
    return Bytes() if request.param == "bytes" else SentencePiece(path=sentencepiece_path, extra_ids=100)


@pytest.fixture(scope="session")
def tokenized():
    """Return a dataset with the feature `targets` from lists of ids."""

    def make(rows) -> tf.data.Dataset:
        ragged = tf.ragged.constant([[int(i) for i in row] for row in rows], tf.int32, ragged_rank=1)
        return tf.data.Dataset.from_tensor_slices({"targets": ragged}).map(lambda e: {"targets": e["targets"][:]})

    return make
