"""Generation, scoring and mask filling on texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax

from t2t.decode.config import Decoding
from t2t.decode.many import fill_many, generate_many, score_many
from t2t.decode.rows import Ids, Name, text_name
from t2t.errors import UserError
from t2t.nn.model import Model
from t2t.types import Params
from t2t.vocabularies import Vocabulary

MASK = "<mask>"
"""The mask token in a text."""


class Output(NamedTuple):
    """One generated text.

    score: sum of the tokens' log-probabilities. Beam search divides it by the length penalty.
    ended: whether the text ends in EOS or another end id. False if the maximum length cut it off.
    """

    text: str
    score: float
    ended: bool


class Candidate(NamedTuple):
    """A predicted token for a mask."""

    text: str
    id: int
    probability: float


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
    name: Name = text_name,
    adapters: Sequence[int] | None = None,
) -> list[list[Output]]:
    """Return the N outputs of each text, in the order of the texts.

    name:       returns the name of the i-th text for error messages.
    append_eos: append EOS to each text, as in the inputs of tasks. Set it to False to let a language model continue the text.
    adapters:   see `t2t.decode.many.generate_many`.

    A text may contain sentinels (`<extra_id_0>`). Raises UserError if a text is too long for the model.
    """
    end = [vocabulary.eos_id] if append_eos else []
    begins = append_eos or vocabulary.prepends_bos or not model.config.can("continue_text")
    return generate_prompts(
        model,
        params,
        vocabulary,
        [vocabulary.encode_marked(text) + end for text in texts],
        decoding,
        length=length,
        bos_id=vocabulary.bos_id if begins else None,
        batch_size=batch_size,
        key=key,
        name=name,
        adapters=adapters,
    )


def generate_prompts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    prompts: Sequence[Ids],
    decoding: Decoding,
    *,
    length: int = 128,
    bos_id: int | None = None,
    batch_size: int = 32,
    key: jax.Array | None = None,
    name: Name = text_name,
    adapters: Sequence[int] | None = None,
) -> list[list[Output]]:
    """Return the N outputs of each prompt, in the order of the prompts.

    prompts: ids, without the start token. They are not changed.
    bos_id:  start token of the decoder. None if the prompts have one, or none is needed.
    name:    returns the name of the i-th prompt for error messages.
    adapters: see `t2t.decode.many.generate_many`.

    Raises UserError if a prompt is too long for the model.
    """
    results = generate_many(
        model,
        params,
        prompts,
        decoding,
        length=length,
        eos_id=vocabulary.end_ids,
        bos_id=bos_id,
        forced_id=vocabulary.forced,
        batch_size=batch_size,
        key=key,
        vocab_size=vocabulary.size,
        pad_id=vocabulary.pad_id,
        name=name,
        adapters=adapters,
    )
    return [
        [
            Output(vocabulary.decode_generated(ids), value, bool(ids) and ids[-1] in vocabulary.end_ids)
            for ids, value in outputs
        ]
        for outputs in results
    ]


def score_texts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_size: int = 32,
    append_eos: bool = True,
    name: Name = text_name,
) -> list[float]:
    """Return, for each pair, the log-probability in nats of the second text (EOS included) given the first."""
    end = [vocabulary.eos_id] if append_eos else []
    return score_many(
        model,
        params,
        [vocabulary.encode_marked(before) + end for before, _ in pairs],
        [[*vocabulary.of_targets.encode_marked(after), vocabulary.eos_id] for _, after in pairs],
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
    name: Name = text_name,
) -> list[list[list[Candidate]]]:
    """Return the `top` most likely tokens, best first, for each `<mask>` of each text.

    The model sees each text as in masked language modelling: [CLS] text [SEP], or text EOS if the vocabulary has no [CLS] and [SEP].
    The masks are predicted independently of each other. Raises UserError if a text has no mask or is too long for the model.
    """
    if vocabulary.mask_id is None:
        raise UserError(f"{vocabulary} has no mask token: set extra_ids to 1 or more.")
    if vocabulary.cls_id is not None and vocabulary.sep_id is not None:
        head, tail = [vocabulary.cls_id], [vocabulary.sep_id]
    else:
        head, tail = [], [vocabulary.eos_id]
    rows = [head + vocabulary.encode_marked(text.replace(MASK, "[MASK]")) + tail for text in texts]
    results = fill_many(model, params, rows, vocabulary.mask_id, top=top, batch_size=batch_size, name=name)
    return [
        [
            [Candidate(vocabulary.decode([i]), i, p) for i, p in zip(fill.ids, fill.probabilities, strict=True)]
            for fill in fills
        ]
        for fills in results
    ]
