"""Any number of id lists generated from or scored: batched by length, answered in the order given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t2t.decode.config import Decoding, Sampling
from t2t.decode.generation import all_ends, generate, prompt
from t2t.decode.placement import fetch, mesh_of, place, row_parts
from t2t.decode.rows import Ids, TooLong, bucket, filled, groups, tokens
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


def _check_fits(inputs: Sequence[Ids], most: int | None, limit: int | None, name: Callable[[int], str]) -> None:
    if most is None:
        return
    long = {i: (len(ids), max(most, 0)) for i, ids in enumerate(inputs) if len(ids) > most}
    for i, (size, _) in long.items():
        raise TooLong(
            f"{name(i)} has {size} tokens; with the model's {limit} positions at most {max(most, 0)} can be taken.",
            long,
        )


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
    name: Callable[[int], str] = _item,
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
    kind, limit = model.config.kind, model.config.max_length
    if kind == "encoder":
        raise UserError("an encoder generates no text; it fills in masks.")
    if length < 1:
        raise UserError(f"length {length} to generate must be at least 1.")
    if kind == "encoder_decoder":
        most = limit
        if limit is not None and length > limit:
            raise UserError(
                f"length {length} to generate is longer than the model's {limit} positions. Nearest: {limit}."
            )
    else:
        most = None if limit is None else limit - length
    _check_fits(inputs, most, limit, name)
    mesh = mesh_of(params)
    head = [] if bos_id is None else [bos_id]
    if kind == "encoder_decoder":
        assert head, "an encoder-decoder's output starts from something"
        sizes: list[tuple[int, ...]] = [(bucket(len(ids), limit=limit),) for ids in inputs]
    else:
        room = None if limit is None else limit - length + 1
        sizes = [(bucket(len(head) + len(ids), limit=room),) for ids in inputs]
        for i, ids in enumerate(inputs):
            if not head and not ids:
                raise UserError(f"{name(i)} is empty: there is nothing to go on with.")
    found: list[list[Continuation]] = [[] for _ in inputs]
    for group in groups(sizes, batch_size, row_parts(mesh)):
        before()
        chosen = [inputs[i] for i in group.indices]
        shape = (group.rows, max(sizes[i][0] for i in group.indices))
        if kind == "encoder_decoder":
            starts = tokens([head] * len(chosen), (group.rows, 1))
            batch = prompt(encoder=tokens(chosen, shape), decoder=starts)
        else:
            rows = [[*head, *ids] for ids in chosen]
            batch = prompt(decoder=tokens(rows, shape, prefixes=[len(row) for row in rows]))
        keys = None
        if isinstance(decoding, Sampling):
            if key is None:
                raise ValueError("sampling needs a random key")
            data = np.zeros(group.rows, np.int32)
            data[: len(chosen)] = group.indices
            keys = jax.vmap(partial(jax.random.fold_in, key))(data)
            if mesh is not None:
                keys = jax.random.wrap_key_data(place(jax.random.key_data(keys), mesh), impl=jax.random.key_impl(key))
        made = fetch(
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
    name: Callable[[int], str] = _item,
    before: Callable[[], None] = lambda: None,
) -> list[float]:
    """Return the log-probability in nats of each of the targets (EOS included where it is given) after its inputs.

    mask_id: of an encoder, which sees a mask in place of each of the target's tokens: the sum is over tokens that do not know of each other,
             and the number of masks tells the length.
    before:  called before each batch.

    Raises UserError for a pair too long for the positions, before any is computed, and for an encoder without a mask.
    """
    kind, limit = model.config.kind, model.config.max_length
    if kind == "encoder" and mask_id is None:
        raise UserError("an encoder scores texts in place of masks only, and its vocabulary has none.")
    mesh = mesh_of(params)
    joined = [[*first, *after] for first, after in zip(inputs, targets, strict=True)]
    if kind == "encoder_decoder":
        _check_fits(inputs, limit, limit, name)
        _check_fits(targets, limit, limit, name)
        sizes: list[tuple[int, ...]] = [
            (bucket(len(first), limit=limit), bucket(len(after), limit=limit))
            for first, after in zip(inputs, targets, strict=True)
        ]
    else:
        _check_fits(joined, limit, limit, name)
        sizes = [(bucket(len(ids), limit=limit),) for ids in joined]
    scores = [0.0] * len(joined)
    for group in groups(sizes, batch_size, row_parts(mesh)):
        before()
        shapes = [(group.rows, max(column)) for column in zip(*(sizes[i] for i in group.indices), strict=True)]
        if kind == "encoder_decoder":
            wanted = [list(targets[i]) for i in group.indices]
            encoder = tokens([inputs[i] for i in group.indices], shapes[0])
            weights = [[1.0] * len(ids) for ids in wanted]
            prefixes = None
        else:
            wanted = [joined[i] for i in group.indices]
            encoder = None
            if mask_id is not None and kind == "encoder":
                hidden = [[*inputs[i], *[mask_id] * len(targets[i])] for i in group.indices]
                encoder = tokens(hidden, shapes[0])
            weights = [[0.0] * len(inputs[i]) + [1.0] * len(targets[i]) for i in group.indices]
            prefixes = [1 + len(inputs[i]) if inputs[i] else 0 for i in group.indices]
        shifted = [[bos_id, *ids[:-1]] if ids else [] for ids in wanted]
        batch = Batch(
            encoder=encoder,
            decoder=None if kind == "encoder" else tokens(shifted, shapes[-1], prefixes=prefixes),
            targets=filled(wanted, shapes[-1], np.int32),
            weights=filled(weights, shapes[-1], np.float32),
        )
        values = fetch(score(model, params, place(batch, mesh)))
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
    name: Callable[[int], str] = _item,
) -> list[list[MaskFill]]:
    """Return, for each of the inputs, the `top` likeliest ids at each of its masks, in order.

    Raises UserError for an input without a mask or too long for the positions, and for a model that is no encoder.
    """
    if model.config.kind != "encoder":
        raise UserError(
            f"masks are filled in by an encoder; this model is of kind {model.config.kind}, which generates."
        )
    if model.config.output != "words":
        raise UserError(f"masks are filled in by a head for words; this model's is for {model.config.output!r}.")
    if top < 1:
        raise UserError(f"top {top} must be at least 1.")
    limit = model.config.max_length
    _check_fits(inputs, limit, limit, name)
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
