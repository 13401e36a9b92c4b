"""Generation, scoring and mask filling for any number of id lists: batched by length, with results in input order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2t.decode.config import Decoding, Sampling
from t2t.decode.generation import all_ends, generate
from t2t.decode.placement import fetch, mesh_of, place, row_parts
from t2t.decode.requests import form_of
from t2t.decode.rows import Ids, Name, bucket, check_fits, filled, groups, text_name, tokens
from t2t.decode.scoring import fill_mask, score
from t2t.errors import UserError
from t2t.nn.adapters import ADAPTERS, NONE
from t2t.nn.model import Model
from t2t.types import Batch, Params


class Continuation(NamedTuple):
    """One generated sequence.

    ids:   without padding. They end in an end id, unless the maximum length cut them off.
    score: see `Generated.scores`.
    """

    ids: list[int]
    score: float


class MaskFill(NamedTuple):
    """The most likely ids at one mask, best first, with their probabilities."""

    ids: list[int]
    probabilities: list[float]


def generate_many(
    model: Model,
    params: Params,
    inputs: Sequence[Ids],
    decoding: Decoding,
    *,
    length: int,
    eos_id: int | tuple[int, ...],
    bos_id: int | None = 0,
    forced_id: int | None = None,
    batch_size: int = 32,
    key: jax.Array | None = None,
    vocab_size: int | None = None,
    pad_id: int | None = 0,
    name: Name = text_name,
    before: Callable[[], None] = lambda: None,
    adapters: Sequence[int] | None = None,
) -> list[list[Continuation]]:
    """Return the N continuations of each input.

    inputs: ids for the encoder, or the prompts of a decoder, as in training: with EOS at the end if training had it.
    length: maximum number of tokens to generate, EOS included.
    eos_id: the end id, or several end ids.
    bos_id: start token of the decoder. None for a decoder-only model whose prompts have no start token.
    forced_id: first token of an encoder-decoder's output (BART). It does not count towards `length`, nor in the score.
    key:    random key for `Sampling`. The samples of an input depend on its index in `inputs`, not on the batches.
    name:   returns the name of the i-th input for error messages.
    before: called before each batch.
    adapters: number of the adapter that each input uses, -1 for none; None if the model has no bank of adapters (`t2t.adapters.bank`).

    Lengths and the size of the last batch are padded to powers of two. Raises UserError, before any computation, if an input is too long for
    the model's positions.
    """
    if length < 1:
        raise UserError(f"length {length} is less than 1. Nearest: 1.")
    forced = [] if forced_id is None or not {"encoder", "decoder"} <= set(model.config.sides) else [forced_id]
    start = [*([] if bos_id is None else [bos_id]), *forced]
    requests = form_of(model.config).generating(
        inputs, length=length, start=start, limit=model.config.max_length, name=name
    )
    mesh = mesh_of(params)
    found: list[list[Continuation]] = [[] for _ in inputs]
    for group in groups(requests.sizes, batch_size, row_parts(mesh)):
        before()
        keys = None
        if isinstance(decoding, Sampling):
            if key is None:
                raise ValueError("Sampling needs a random key")
            data = np.zeros(group.rows, np.int32)
            data[: len(group.indices)] = group.indices
            keys = jax.vmap(partial(jax.random.fold_in, key))(data)
            if mesh is not None:
                keys = jax.random.wrap_key_data(place(jax.random.key_data(keys), mesh), impl=jax.random.key_impl(key))
        batch = requests.batch(group)
        if adapters is not None:
            numbers = np.full(group.rows, NONE, np.int32)
            numbers[: len(group.indices)] = [adapters[i] for i in group.indices]
            batch = replace(batch, extra={ADAPTERS: numbers})
        generated = fetch(
            generate(
                model,
                params,
                place(batch, mesh),
                decoding,
                length=length,
                eos_id=eos_id,
                key=keys,
                vocab_size=vocab_size,
                pad_id=pad_id,
            )
        )
        for row, i in enumerate(group.indices):
            found[i] = [
                Continuation(forced + _until_end(ids, all_ends(eos_id), pad_id), float(value))
                for ids, value in zip(generated.ids[row], generated.scores[row], strict=True)
            ]
    return found


def _until_end(ids: np.ndarray, ends: tuple[int, ...], pad_id: int | None) -> list[int]:
    """Return the ids up to and including the first end id, without padding. A beam may consist of padding only."""
    ended = np.flatnonzero(np.isin(ids, ends))
    kept = ids[: ended[0] + 1] if ended.size else ids
    return [int(i) for i in kept if i != pad_id or i in ends]


def score_many(
    model: Model,
    params: Params,
    inputs: Sequence[Ids],
    targets: Sequence[Ids],
    *,
    bos_id: int = 0,
    mask_id: int | None = None,
    batch_size: int = 32,
    name: Name = text_name,
    before: Callable[[], None] = lambda: None,
) -> list[float]:
    """Return the log-probability in nats of each target, given its inputs. EOS counts if the target ends in it.

    mask_id: mask token, only for an encoder. The encoder sees a mask in place of each target token. The result is then the sum over
             independent predictions, and the number of masks reveals the length.
    before:  called before each batch.

    Raises UserError, before any computation, if a pair is too long for the model's positions or an encoder has no mask token.
    """
    requests = form_of(model.config).scoring(
        inputs, targets, bos_id=bos_id, mask_id=mask_id, limit=model.config.max_length, name=name
    )
    mesh = mesh_of(params)
    scores = [0.0] * len(requests.sizes)
    for group in groups(requests.sizes, batch_size, row_parts(mesh)):
        before()
        values = fetch(score(model, params, place(requests.batch(group), mesh)))
        for row, i in enumerate(group.indices):
            scores[i] = float(values[row])
    return scores


def fill_many(
    model: Model,
    params: Params,
    inputs: Sequence[Ids],
    mask_id: int,
    *,
    top: int = 5,
    batch_size: int = 32,
    name: Name = text_name,
) -> list[list[MaskFill]]:
    """Return, for each input, the `top` most likely ids at each of its masks, in order.

    Raises UserError if an input has no mask or is too long for the model's positions, or if the model is not an encoder.
    """
    if model.config.can("generate"):
        raise UserError(f"only an encoder can fill in masks; this model is of kind {model.config.kind}.")
    if not model.config.can("fill_mask"):
        raise UserError(
            f"only a head for tokens can fill in masks; the head of this model is for {model.config.output!r}."
        )
    if top < 1:
        raise UserError(f"top {top} is less than 1. Nearest: 1.")
    limit = model.config.max_length
    check_fits(inputs, limit, limit, name)
    places = [[i for i, token in enumerate(ids) if token == mask_id] for ids in inputs]
    for i, masks in enumerate(places):
        if not masks:
            raise UserError(f"{name(i)} has no mask to fill in: write <mask> in place of a token.")
    mesh = mesh_of(params)
    sizes = [
        (bucket(len(ids), limit=limit), bucket(len(row), least=1)) for ids, row in zip(inputs, places, strict=True)
    ]
    found: list[list[MaskFill]] = [[] for _ in inputs]
    for group in groups(sizes, batch_size, row_parts(mesh)):
        shape = (group.rows, max(sizes[i][0] for i in group.indices))
        positions = filled(
            [places[i] for i in group.indices], (group.rows, max(sizes[i][1] for i in group.indices)), np.int32
        )
        zeros = np.zeros(shape, np.int32)
        batch = Batch(
            encoder=tokens([inputs[i] for i in group.indices], shape),
            decoder=None,
            targets=zeros,
            weights=zeros.astype(np.float32),
        )
        predicted = fetch(fill_mask(model, params, place(batch, mesh), place(jnp.asarray(positions), mesh), top))
        for row, i in enumerate(group.indices):
            found[i] = [
                MaskFill(predicted.ids[row, m].tolist(), predicted.probabilities[row, m].tolist())
                for m in range(len(places[i]))
            ]
    return found
