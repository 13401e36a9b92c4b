"""Any number of id lists generated from or scored: batched by length, answered in the order given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2t.decode.config import Decoding, Sampling
from t2t.decode.generation import all_ends, generate
from t2t.decode.placement import fetch, mesh_of, place, row_parts
from t2t.decode.requests import form_of
from t2t.decode.rows import Ids, Name, bucket, check_fits, filled, groups, tokens
from t2t.decode.scoring import fill_mask, score
from t2t.errors import UserError
from t2t.nn.model import Model
from t2t.types import Batch, Params


class Continuation(NamedTuple):
    """One generated sequence.

    ids:   without padding; ends in EOS, or in the one of several that ended it, unless the length cut it off.
    score: see `Generated.scores`.
    """

    ids: list[int]
    score: float


class MaskFill(NamedTuple):
    """The likeliest ids at one mask, best first, with their probabilities."""

    ids: list[int]
    probabilities: list[float]


def _item(i: int) -> str:
    return f"text {i + 1}"


def generate_many(
    model: Model,
    params: Params,
    inputs: Sequence[Ids],
    decoding: Decoding,
    *,
    length: int,
    eos_id: int | tuple[int, ...],
    bos_id: int | None = 0,
    batch_size: int = 32,
    key: jax.Array | None = None,
    vocab_size: int | None = None,
    pad_id: int | None = 0,
    name: Name = _item,
    before: Callable[[], None] = lambda: None,
) -> list[list[Continuation]]:
    """Return the N continuations of each of the inputs.

    inputs: ids for the encoder, or what stands before the decoder's continuation; `bos_id` starts the decoder, or where it is None, for a
            decoder alone, nothing does. As training had them: with EOS at the end where it was there.
    length: tokens to generate at most, EOS included.
    eos_id: what ends a continuation, or several of which any does.
    key:    for `Sampling`; what is drawn for an input depends on its place in `inputs`, not on batches.
    name:   how to call the i-th input in errors.
    before: called before each batch.

    Lengths are padded to powers of two, and so is the last batch. Raises UserError for an input too long for the positions,
    before any is computed.
    """
    if length < 1:
        raise UserError(f"length {length} to generate must be at least 1.")
    requests = form_of(model.config).generating(
        inputs, length=length, bos_id=bos_id, limit=model.config.max_length, name=name
    )
    mesh = mesh_of(params)
    found: list[list[Continuation]] = [[] for _ in inputs]
    for group in groups(requests.sizes, batch_size, row_parts(mesh)):
        before()
        keys = None
        if isinstance(decoding, Sampling):
            if key is None:
                raise ValueError("sampling needs a random key")
            data = np.zeros(group.rows, np.int32)
            data[: len(group.indices)] = group.indices
            keys = jax.vmap(partial(jax.random.fold_in, key))(data)
            if mesh is not None:
                keys = jax.random.wrap_key_data(place(jax.random.key_data(keys), mesh), impl=jax.random.key_impl(key))
        made = fetch(
            generate(
                model,
                params,
                place(requests.batch(group), mesh),
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
                Continuation(_until_end(ids, all_ends(eos_id), pad_id), float(value))
                for ids, value in zip(made.ids[row], made.scores[row], strict=True)
            ]
    return found


def _until_end(ids: np.ndarray, ends: tuple[int, ...], pad_id: int | None) -> list[int]:
    """Return the ids up to and with the first that ends them, without padding: beams may be padding altogether."""
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
    name: Name = _item,
    before: Callable[[], None] = lambda: None,
) -> list[float]:
    """Return the log-probability in nats of each of the targets (EOS included where it is given) after its inputs.

    mask_id: of an encoder, which sees a mask in place of each of the target's tokens: the sum is over tokens that do not know of each other,
             and the number of masks tells the length.
    before:  called before each batch.

    Raises UserError for a pair too long for the positions, before any is computed, and for an encoder without a mask.
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
    name: Name = _item,
) -> list[list[MaskFill]]:
    """Return, for each of the inputs, the `top` likeliest ids at each of its masks, in order.

    Raises UserError for an input without a mask or too long for the positions, and for a model that is no encoder.
    """
    if model.config.can("generate"):
        raise UserError(
            f"masks are filled in by an encoder; this model is of kind {model.config.kind}, which generates."
        )
    if not model.config.can("fill_mask"):
        raise UserError(f"masks are filled in by a head for words; this model's is for {model.config.output!r}.")
    if top < 1:
        raise UserError(f"top {top} must be at least 1.")
    limit = model.config.max_length
    check_fits(inputs, limit, limit, name)
    places = [[i for i, token in enumerate(ids) if token == mask_id] for ids in inputs]
    for i, masks in enumerate(places):
        if not masks:
            raise UserError(f"{name(i)} has no mask to fill in; write <mask> where a token is wanted.")
    mesh = mesh_of(params)
    sizes = [
        (bucket(len(ids), limit=limit), bucket(len(row), least=1)) for ids, row in zip(inputs, places, strict=True)
    ]
    found: list[list[MaskFill]] = [[] for _ in inputs]
    for group in groups(sizes, batch_size, row_parts(mesh)):
        shape = (group.rows, max(sizes[i][0] for i in group.indices))
        where = filled(
            [places[i] for i in group.indices], (group.rows, max(sizes[i][1] for i in group.indices)), np.int32
        )
        zeros = np.zeros(shape, np.int32)
        batch = Batch(
            encoder=tokens([inputs[i] for i in group.indices], shape),
            decoder=None,
            targets=zeros,
            weights=zeros.astype(np.float32),
        )
        made = fetch(fill_mask(model, params, place(batch, mesh), place(jnp.asarray(where), mesh), top))
        for row, i in enumerate(group.indices):
            found[i] = [
                MaskFill(made.ids[row, m].tolist(), made.probabilities[row, m].tolist()) for m in range(len(places[i]))
            ]
    return found
