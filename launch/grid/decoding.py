"""Costs of decoding: the state of the layers, and the time of a step."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from t2t.decode.generation import prompt
from t2t.decode.rows import tokens as rows_of
from t2t.errors import UserError
from t2t.launch.grid.costs import DecodingCosts
from t2t.models import DecoderConfig
from t2t.nn.model import ModelConfig
from t2t.optim.state_axes import abstract_params
from t2t.types import Batch, Params

STEPS, ROUNDS = 16, 7
"""Steps of a round, and rounds. The time is the median of the rounds."""


def state_bytes(config: ModelConfig, tokens: int) -> int:
    """Return the bytes that the layers store about `tokens` tokens of one row. Nothing is compiled. Raises UserError if the model is not a decoder."""
    model = _with_room(config, tokens).build()

    def layers(params: Params, batch: Batch) -> Any:
        return model.start(params, batch, tokens)[1]["layers"]

    stored = jax.tree.leaves(jax.eval_shape(layers, abstract_params(model.specs), _text(tokens)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in stored)


class Decoding:
    """Greedy decoding of one row after a number of tokens, with random parameters: the time does not depend on their values."""

    def __init__(self, config: ModelConfig, tokens: int) -> None:
        """Compile the steps. Learned positions are extended as far as needed.

        Raises UserError if the model is not a decoder.
        """
        room = tokens + STEPS
        model = _with_room(config, room).build()
        params = jax.jit(model.init)(jax.random.key(0))

        def continued(params: Params, cache: Any, ids: jax.Array) -> jax.Array:
            step = model.stepper(params)

            def one(carried: tuple[Any, jax.Array], _: None) -> tuple[tuple[Any, jax.Array], None]:
                logits, cache = step(*carried)
                return (cache, jnp.argmax(logits, axis=-1).astype(ids.dtype)), None

            (_, last), _ = jax.lax.scan(one, (cache, ids), length=STEPS)
            return last

        _, cache = jax.jit(model.start, static_argnums=2)(params, _text(tokens), room)
        self._arguments = params, cache, jnp.ones((1,), jnp.int32)
        self._steps = jax.jit(continued)
        self.seconds()

    def seconds(self) -> float:
        """Return the time of a step, the mean of `STEPS`."""
        began = time.perf_counter()
        jax.block_until_ready(self._steps(*self._arguments))
        return (time.perf_counter() - began) / STEPS


def decoding_costs(config: ModelConfig, tokens: int) -> DecodingCosts:
    """Return the costs of decoding one more token of one row after `tokens` tokens. Raises UserError if the model is not a decoder."""
    decoding = Decoding(config, tokens)
    seconds = statistics.median(decoding.seconds() for _ in range(ROUNDS))
    return DecodingCosts(tokens=tokens, bytes=state_bytes(config, tokens), seconds=seconds)


def _with_room(config: ModelConfig, length: int) -> DecoderConfig:
    """Return the decoder with at least `length` learned positions, if it has any."""
    if not isinstance(config, DecoderConfig):
        raise UserError(f"costs of decoding: a model of kind {config.kind!r} is not measured. Nearest: a decoder.")
    return replace(config, decoder=replace(config.decoder, max_length=max(config.decoder.max_length, length)))


def _text(tokens: int) -> Batch:
    return prompt(decoder=rows_of([[1] * tokens], (1, tokens)))
