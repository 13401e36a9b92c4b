"""Batches for generation and scoring, for each kind of model."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from t2t.decode.generation import prompt
from t2t.decode.rows import Group, Ids, Name, bucket, check_fits, filled, tokens
from t2t.errors import UserError
from t2t.nn.model import Kind, ModelConfig
from t2t.types import Batch


@dataclass(frozen=True)
class Requests:
    """Requests to be batched.

    sizes: padded lengths of each request.
    batch: returns the batch of a group of requests.
    """

    sizes: list[tuple[int, ...]]
    batch: Callable[[Group], Batch]


class Form(abc.ABC):
    """Builder of requests for one kind of model. limit: the model's number of positions, or None."""

    @abc.abstractmethod
    def generating(
        self, inputs: Sequence[Ids], *, length: int, start: Sequence[int], limit: int | None, name: Name
    ) -> Requests:
        """Return requests to generate at most `length` tokens after each input; see `t2t.decode.many.generate_many`.

        start: first tokens of the decoder, before the input of a decoder-only model.
        """

    @abc.abstractmethod
    def scoring(
        self,
        inputs: Sequence[Ids],
        targets: Sequence[Ids],
        *,
        bos_id: int,
        mask_id: int | None,
        limit: int | None,
        name: Name,
    ) -> Requests:
        """Return requests for the log-probability of each target, given its inputs; see `t2t.decode.many.score_many`."""


class _EncoderForm(Form):
    def generating(
        self, inputs: Sequence[Ids], *, length: int, start: Sequence[int], limit: int | None, name: Name
    ) -> Requests:
        raise UserError("an encoder generates no text; it can only fill in masks.")

    def scoring(
        self,
        inputs: Sequence[Ids],
        targets: Sequence[Ids],
        *,
        bos_id: int,
        mask_id: int | None,
        limit: int | None,
        name: Name,
    ) -> Requests:
        if mask_id is None:
            raise UserError("an encoder scores texts only in place of masks, but its vocabulary has no mask token.")
        joined, sizes = _joined(inputs, targets, limit, name)

        def batch(group: Group) -> Batch:
            (shape,) = _shapes(sizes, group)
            masked = [[*inputs[i], *[mask_id] * len(targets[i])] for i in group.indices]
            return Batch(
                encoder=tokens(masked, shape),
                decoder=None,
                targets=filled([joined[i] for i in group.indices], shape, np.int32),
                weights=filled(_target_weights(inputs, targets, group), shape, np.float32),
            )

        return Requests(sizes, batch)


class _DecoderForm(Form):
    def generating(
        self, inputs: Sequence[Ids], *, length: int, start: Sequence[int], limit: int | None, name: Name
    ) -> Requests:
        check_fits(inputs, None if limit is None else limit - length, limit, name)
        head = list(start)
        room = None if limit is None else limit - length + 1
        sizes: list[tuple[int, ...]] = [(bucket(len(head) + len(ids), limit=room),) for ids in inputs]
        for i, ids in enumerate(inputs):
            if not head and not ids:
                raise UserError(f"{name(i)} is empty: there is nothing to continue.")

        def batch(group: Group) -> Batch:
            (shape,) = _shapes(sizes, group)
            rows = [[*head, *inputs[i]] for i in group.indices]
            return prompt(decoder=tokens(rows, shape, prefixes=[len(row) for row in rows]))

        return Requests(sizes, batch)

    def scoring(
        self,
        inputs: Sequence[Ids],
        targets: Sequence[Ids],
        *,
        bos_id: int,
        mask_id: int | None,
        limit: int | None,
        name: Name,
    ) -> Requests:
        joined, sizes = _joined(inputs, targets, limit, name)

        def batch(group: Group) -> Batch:
            (shape,) = _shapes(sizes, group)
            rows = [joined[i] for i in group.indices]
            prefixes = [1 + len(inputs[i]) if inputs[i] else 0 for i in group.indices]
            return Batch(
                encoder=None,
                decoder=tokens(_shifted(rows, bos_id), shape, prefixes=prefixes),
                targets=filled(rows, shape, np.int32),
                weights=filled(_target_weights(inputs, targets, group), shape, np.float32),
            )

        return Requests(sizes, batch)


class _EncoderDecoderForm(Form):
    def generating(
        self, inputs: Sequence[Ids], *, length: int, start: Sequence[int], limit: int | None, name: Name
    ) -> Requests:
        most = None if limit is None else limit + 1 - len(start)
        if most is not None and length > most:
            raise UserError(f"length {length} is greater than the model's {most} positions. Nearest: {most}.")
        check_fits(inputs, limit, limit, name)
        assert start, "an encoder-decoder needs a start token"
        sizes: list[tuple[int, ...]] = [(bucket(len(ids), limit=limit),) for ids in inputs]

        def batch(group: Group) -> Batch:
            (shape,) = _shapes(sizes, group)
            starts = tokens([list(start)] * len(group.indices), (group.rows, len(start)))
            return prompt(encoder=tokens([inputs[i] for i in group.indices], shape), decoder=starts)

        return Requests(sizes, batch)

    def scoring(
        self,
        inputs: Sequence[Ids],
        targets: Sequence[Ids],
        *,
        bos_id: int,
        mask_id: int | None,
        limit: int | None,
        name: Name,
    ) -> Requests:
        check_fits(inputs, limit, limit, name)
        check_fits(targets, limit, limit, name)
        sizes: list[tuple[int, ...]] = [
            (bucket(len(first), limit=limit), bucket(len(after), limit=limit))
            for first, after in zip(inputs, targets, strict=True)
        ]

        def batch(group: Group) -> Batch:
            encoder_shape, decoder_shape = _shapes(sizes, group)
            rows = [list(targets[i]) for i in group.indices]
            return Batch(
                encoder=tokens([inputs[i] for i in group.indices], encoder_shape),
                decoder=tokens(_shifted(rows, bos_id), decoder_shape),
                targets=filled(rows, decoder_shape, np.int32),
                weights=filled([[1.0] * len(ids) for ids in rows], decoder_shape, np.float32),
            )

        return Requests(sizes, batch)


_FORMS: dict[Kind, Form] = {
    "encoder": _EncoderForm(),
    "decoder": _DecoderForm(),
    "encoder_decoder": _EncoderDecoderForm(),
}


def form_of(config: ModelConfig) -> Form:
    """Return the form of requests for a model."""
    return _FORMS[config.kind]


def _joined(
    inputs: Sequence[Ids], targets: Sequence[Ids], limit: int | None, name: Name
) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    """Return each input concatenated with its target, and the padded lengths."""
    joined = [[*first, *after] for first, after in zip(inputs, targets, strict=True)]
    check_fits(joined, limit, limit, name)
    return joined, [(bucket(len(ids), limit=limit),) for ids in joined]


def _target_weights(inputs: Sequence[Ids], targets: Sequence[Ids], group: Group) -> list[list[float]]:
    """Return weights of 0 on the inputs and 1 on the targets."""
    return [[0.0] * len(inputs[i]) + [1.0] * len(targets[i]) for i in group.indices]


def _shifted(rows: Sequence[Ids], bos_id: int) -> list[list[int]]:
    return [[bos_id, *ids[:-1]] if ids else [] for ids in rows]


def _shapes(sizes: Sequence[tuple[int, ...]], group: Group) -> list[tuple[int, int]]:
    return [(group.rows, max(column)) for column in zip(*(sizes[i] for i in group.indices), strict=True)]
