"""Text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from t2t.decode.config import Decoding
from t2t.decode.many import fill_many, generate_many, score_many
from t2t.errors import UserError
from t2t.nn.model import Model
from t2t.types import Params
from t2t.vocabularies import Vocabulary

MASK = "<mask>"
"""How a mask is written in a text."""


class Output(NamedTuple):
    """One generated text.

    score: summed log-probability of its tokens; length-normalised from beam search.
    ended: False where the length cut it off before its EOS, or any other of the ids that end it.
    """

    text: str
    score: float
    ended: bool


class Candidate(NamedTuple):
    """What may stand at a mask."""

    text: str
    id: int
    probability: float


def _name(i: int) -> str:
    return f"text {i + 1}"


def generate_texts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    texts: Sequence[str],
    decoding: Decoding,
    *,
    length: int = 128,
    batch_size: int = 32,
    key: jax.Array | None = None,
    append_eos: bool = True,
    name: Callable[[int], str] = _name,
) -> list[list[Output]]:
    """Return the N outputs of each text, in the order of the texts.

    Sentinels may be written out in a text (`<extra_id_0>`). `append_eos` puts EOS behind it, as the inputs of tasks have; a language
    model that is to go on with the text itself wants none. Raises UserError for a text too long for the model.
    """
    end = [vocabulary.eos_id] if append_eos else []
    made = generate_many(
        model,
        params,
        [vocabulary.encode_marked(text) + end for text in texts],
        decoding,
        length=length,
        eos_id=vocabulary.end_ids,
        bos_id=vocabulary.bos_id
        if append_eos or vocabulary.prepends_bos or not model.config.can("continue_text")
        else None,
        batch_size=batch_size,
        key=key,
        vocab_size=vocabulary.size,
        pad_id=vocabulary.pad_id,
        name=name,
    )
    return [
        [
            Output(vocabulary.decode_generated(ids), value, bool(ids) and ids[-1] in vocabulary.end_ids)
            for ids, value in outputs
        ]
        for outputs in made
    ]


def score_texts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_size: int = 32,
    append_eos: bool = True,
    name: Callable[[int], str] = _name,
) -> list[float]:
    """Return the log-probability, in nats, of each pair's second text (with EOS) given the first."""
    end = [vocabulary.eos_id] if append_eos else []
    return score_many(
        model,
        params,
        [vocabulary.encode_marked(before) + end for before, _ in pairs],
        [[*vocabulary.encode_marked(after), vocabulary.eos_id] for _, after in pairs],
        bos_id=vocabulary.bos_id,
        batch_size=batch_size,
        name=name,
    )


def fill_texts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    texts: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 32,
    name: Callable[[int], str] = _name,
) -> list[list[list[Candidate]]]:
    """Return for each text, for each `<mask>` in it, the `top` likeliest tokens, best first.

    A text stands as masked language modelling had it: [CLS] text [SEP], or text and EOS where the vocabulary has no such. Each mask's
    distribution is its own, all masks unknown. Raises UserError for a text without a mask or too long for the model.
    """
    if vocabulary.mask_id is None:
        raise UserError(f"{vocabulary} has no mask; give it extra_ids=1 or more.")
    if vocabulary.cls_id is not None and vocabulary.sep_id is not None:
        head, tail = [vocabulary.cls_id], [vocabulary.sep_id]
    else:
        head, tail = [], [vocabulary.eos_id]
    rows = [head + vocabulary.encode_marked(text.replace(MASK, "[MASK]")) + tail for text in texts]
    made = fill_many(model, params, rows, vocabulary.mask_id, top=top, batch_size=batch_size, name=name)
    return [
        [
            [Candidate(vocabulary.decode([i]), i, p) for i, p in zip(fill.ids, fill.probabilities, strict=True)]
            for fill in fills
        ]
        for fills in made
    ]
