"""The exported functions of a model, which take and return plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from t2t.decode import Greedy, generate
from t2t.nn.model import Model, Output
from t2t.types import Batch, Params, Tokens

Arrays = dict[str, jax.Array]
Continued = Callable[[Params, Batch], Arrays]


@dataclass(frozen=True, kw_only=True)
class Input:
    """An argument of an entry, always int32: the names of its dimensions, and a description."""

    shape: tuple[str, ...]
    about: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An exported function: (parameters, name -> input) -> name -> output.

    limits: name of a dimension -> its maximum size, given the model's positions.
    """

    name: str
    about: str
    inputs: dict[str, Input]
    outputs: dict[str, str]
    function: Callable[[Params, Arrays], Arrays]
    limits: dict[str, int]


def entries(
    model: Model,
    *,
    length: int,
    eos_id: int | tuple[int, ...],
    start_ids: tuple[int, ...] = (0,),
    vocab_size: int | None = None,
    pad_id: int | None = 0,
) -> list[Entry]:
    """Return the entries of a model: `logits`, and `greedy` if it can generate.

    length:     maximum number of tokens that `greedy` generates.
    eos_id:     the end id, or several end ids.
    start_ids:  start token of an encoder-decoder's output, and the token that always follows it, if there is one.
    vocab_size: ids from this number on are never generated.
    pad_id:     padding id of the inputs, never generated. None if the vocabulary has no padding.
    """

    def continued(params: Params, batch: Batch) -> Arrays:
        generated = generate(
            model, params, batch, Greedy(), length=length, eos_id=eos_id, vocab_size=vocab_size, pad_id=pad_id
        )
        return {"ids": generated.ids[:, 0], "scores": generated.scores[:, 0]}

    if not model.config.can("generate"):
        return _encoder(model, pad_id)
    if model.config.can("continue_text"):
        return _decoder(model, length, continued)
    return _encoder_decoder(model, length, start_ids, pad_id, continued)


def _padding(pad_id: int | None) -> str:
    return "all rows of the same length" if pad_id is None else f"padded at the end with {pad_id}"


def _encoder(model: Model, pad_id: int | None) -> list[Entry]:
    about = f"token ids, including masks, {_padding(pad_id)}"
    inputs = {"ids": Input(shape=("batch", "length"), about=about)}
    if model.config.types:
        inputs["types"] = Input(
            shape=("batch", "length"), about="token types: 0 in the first sentence, 1 in the second"
        )

    def logits(params: Params, arrays: Arrays) -> Arrays:
        tokens = _padded(arrays["ids"], pad_id).replace(types=arrays.get("types"))  # type: ignore[attr-defined]
        return {"logits": model.logits(params, _batch(arrays["ids"], encoder=tokens))}

    return [
        Entry(
            name="logits",
            about=_SCORES[model.config.output],
            inputs=inputs,
            outputs={"logits": _LOGITS[model.config.output]},
            function=logits,
            limits=_limits(model, "length"),
        )
    ]


_SCORES: dict[Output, str] = {
    "tokens": "scores of each token at each position",
    "label": "scores of each label of a text at its first position",
    "labels": "score of each label of a text at its first position; above 0 if the text has the label",
    "numbers": "numbers of a text at its first position",
    "tags": "scores of each label of a word at its first token",
    "span": "scores of each position as the first and as the last of the span",
    "vectors": "outputs at each position",
}
_LOGITS: dict[Output, str] = {
    "tokens": "float32 [batch, length, vocabulary]; the scores at a mask predict its token",
    "label": "float32 [batch, length, labels]; position 0 has the scores of the text",
    "labels": "float32 [batch, length, labels]; position 0 has the scores of the text, whose sigmoids are probabilities",
    "numbers": "float32 [batch, length, numbers]; position 0 has the numbers of the text",
    "tags": "float32 [batch, length, labels]; a word's first token has the scores of the word",
    "span": "float32 [batch, length, length]; position 0 has the scores of the first position, position 1 those of the last",
    "vectors": "float32 [batch, length, width]; the vector of a text is pooled from the outputs at its tokens",
}


def _decoder(model: Model, length: int, continued: Continued) -> list[Entry]:
    ids = Input(
        shape=("batch", "length"), about="the start id and the ids of the text; ids after a row's end have no effect"
    )
    inputs = {"ids": ids}
    prefix_lm = model.config.noncausal_prefix
    if prefix_lm:
        about = "length of a row's prefix, start id included; its tokens attend to each other in both directions"
        inputs["prefix_lengths"] = Input(shape=("batch",), about=about)

    def logits(params: Params, arrays: Arrays) -> Arrays:
        tokens = _whole(arrays["ids"])
        if prefix_lm:
            tokens = tokens.replace(prefix=_until(arrays["prefix_lengths"], arrays["ids"]))  # type: ignore[attr-defined]
        return {"logits": model.logits(params, _batch(arrays["ids"], decoder=tokens))}

    def greedy(params: Params, arrays: Arrays) -> Arrays:
        real = _until(arrays["lengths"], arrays["ids"])
        tokens = Tokens(ids=arrays["ids"], positions=_positions(arrays["ids"]), segments=real, prefix=real)
        return continued(params, _batch(arrays["ids"], decoder=tokens))

    return [
        Entry(
            name="logits",
            about="scores of each next token",
            inputs=inputs,
            outputs={"logits": "float32 [batch, length, vocabulary]; position i scores the token after ids[:, i]"},
            function=logits,
            limits=_limits(model, "length"),
        ),
        Entry(
            name="greedy",
            about=f"continues the prompt by at most {length} tokens, each the most likely one",
            inputs={
                "ids": Input(
                    shape=("batch", "prompt_length"), about="the start id and the prompt's ids, padded at the end"
                ),
                "lengths": Input(shape=("batch",), about="number of ids of a row without padding, start id included"),
            },
            outputs=_generated_outputs(length),
            function=greedy,
            limits=_limits(model, "prompt_length", less=length - 1),
        ),
    ]


def _encoder_decoder(
    model: Model, length: int, start_ids: tuple[int, ...], pad_id: int | None, continued: Continued
) -> list[Entry]:
    inputs = Input(shape=("batch", "inputs_length"), about=f"ids of the inputs, {_padding(pad_id)}")
    targets = Input(
        shape=("batch", "targets_length"),
        about="the start id and the ids of the output so far; ids after a row's end have no effect",
    )

    def logits(params: Params, arrays: Arrays) -> Arrays:
        tokens = {"encoder": _padded(arrays["inputs"], pad_id), "decoder": _whole(arrays["targets"])}
        return {"logits": model.logits(params, _batch(arrays["targets"], **tokens))}

    def greedy(params: Params, arrays: Arrays) -> Arrays:
        start = jnp.broadcast_to(jnp.array(start_ids, jnp.int32), (arrays["inputs"].shape[0], len(start_ids)))
        return continued(params, _batch(start, encoder=_padded(arrays["inputs"], pad_id), decoder=_whole(start)))

    return [
        Entry(
            name="logits",
            about="scores of each next token of the output",
            inputs={"inputs": inputs, "targets": targets},
            outputs={
                "logits": "float32 [batch, targets_length, vocabulary]; position i scores the token after targets[:, i]"
            },
            function=logits,
            limits=_limits(model, "inputs_length", "targets_length"),
        ),
        Entry(
            name="greedy",
            about=f"generates an output of at most {length} tokens, each the most likely one",
            inputs={"inputs": inputs},
            outputs=_generated_outputs(length),
            function=greedy,
            limits=_limits(model, "inputs_length"),
        ),
    ]


def _generated_outputs(length: int) -> dict[str, str]:
    return {
        "ids": f"int32 [batch, {length}]; 0 after the end of a sequence",
        "scores": "float32 [batch]; sums of log-probabilities",
    }


def _limits(model: Model, *names: str, less: int = 0) -> dict[str, int]:
    longest = model.config.max_length
    return {} if longest is None else dict.fromkeys(names, longest - less)


def _batch(like: Int[Array, "B L"], *, encoder: Tokens | None = None, decoder: Tokens | None = None) -> Batch:
    return Batch(
        encoder=encoder, decoder=decoder, targets=jnp.zeros_like(like), weights=jnp.zeros(like.shape, jnp.float32)
    )


def _positions(ids: Int[Array, "B L"]) -> Int[Array, "B L"]:
    return jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)


def _padded(ids: Int[Array, "B L"], pad_id: int | None) -> Tokens:
    if pad_id is None:
        return _whole(ids)
    return Tokens(ids=ids, positions=_positions(ids), segments=(ids != pad_id).astype(jnp.int32))


def _whole(ids: Int[Array, "B L"]) -> Tokens:
    return Tokens(ids=ids, positions=_positions(ids), segments=jnp.ones_like(ids))


def _until(lengths: Int[Array, "B"], ids: Int[Array, "B L"]) -> Int[Array, "B L"]:
    return (_positions(ids) < lengths[:, None]).astype(jnp.int32)
