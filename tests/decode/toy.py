"""Tiny models whose distributions can be enumerated: a recurrent decoder and encoder-decoder, a bag-of-words encoder."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t2t.nn.model import Model, ModelConfig, ParamSpec
from t2t.types import Batch, Tokens

WIDTH = 8


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ModelConfig):
    kind: ClassVar = "decoder"
    vocab_size: int = 5
    positions: int | None = None
    sharpness: float = 2.0

    @property
    def max_length(self):
        return self.positions

    def build(self):
        return Toy(self)


@dataclass(frozen=True, kw_only=True)
class ToyEncoderDecoderConfig(ToyConfig):
    kind: ClassVar = "encoder_decoder"


@dataclass(frozen=True, kw_only=True)
class ToyEncoderConfig(ToyConfig):
    kind: ClassVar = "encoder"


class Toy(Model):
    """h <- tanh(h W + embedding(token)); logits = h U. An encoder-decoder's first h is the mean embedding of its inputs."""

    def __init__(self, config):
        self.config = config
        vocab = config.vocab_size
        self.specs = {
            "embedding": ParamSpec((vocab, WIDTH), jnp.float32, ("vocab", "embed"), True),
            "mix": ParamSpec((WIDTH, WIDTH), jnp.float32, (None, None), True),
            "out": ParamSpec((WIDTH, vocab), jnp.float32, ("embed", "vocab"), True),
        }
        self.traces = 0

    def init(self, key):
        keys = jax.random.split(key, len(self.specs))
        return {
            name: jax.random.normal(k, spec.shape)
            for k, (name, spec) in zip(keys, sorted(self.specs.items()), strict=True)
        }

    def _first(self, params, batch, rows):
        if batch.encoder is None:
            return jnp.zeros((rows, WIDTH))
        seen = (jnp.asarray(batch.encoder.segments) > 0).astype(jnp.float32)[..., None]
        embedded = params["embedding"][batch.encoder.ids]
        return (embedded * seen).sum(1) / jnp.maximum(seen.sum(1), 1.0)

    def _next(self, params, h, ids):
        return jnp.tanh(h @ params["mix"] + params["embedding"][ids])

    def hidden(self, params, batch, *, dropout_key=None):
        self.traces += 1
        if self.config.kind == "encoder":
            h = self._first(params, batch, batch.targets.shape[0])
            return jnp.tanh(params["embedding"][batch.encoder.ids] + h[:, None])

        def scan(h, now):
            ids, real = now
            h = jnp.where(real[:, None], self._next(params, h, ids), h)
            return h, h

        tokens = batch.decoder
        first = self._first(params, batch, tokens.ids.shape[0])
        _, hs = jax.lax.scan(scan, first, (jnp.asarray(tokens.ids).T, jnp.asarray(tokens.segments).T > 0))
        return hs.transpose(1, 0, 2)

    def head(self, params, hidden):
        return self.config.sharpness * hidden @ params["out"]

    def start(self, params, batch, length):
        h = self.hidden(params, batch)[:, -1]
        used = jnp.sum(jnp.asarray(batch.decoder.segments) > 0, axis=1)
        return self.head(params, h), {"h": h, "used": used, "room": jnp.full(used.shape, length)}

    def step(self, params, cache, ids):
        h = self._next(params, cache["h"], ids)
        used = cache["used"] + 1
        # A real cache would silently drop a position beyond its size; here all tests would notice.
        h = jnp.where((used <= cache["room"])[:, None], h, jnp.nan)
        return self.head(params, h), {"h": h, "used": used, "room": cache["room"]}

    def grow(self, cache, length):
        return {**cache, "room": jnp.full_like(cache["room"], length)}

    def select(self, cache, rows):
        return jax.tree.map(lambda leaf: leaf[rows], cache)


_shared = functools.cache(Toy)


def make(config, seed=0):
    """Return a model and parameters drawn from the seed. There is one model per configuration, so that tests share compiled programs."""
    rng = np.random.default_rng(seed)
    model = _shared(config)
    return model, {name: rng.standard_normal(spec.shape).astype(np.float32) for name, spec in model.specs.items()}


def tokens(rows, length=None):
    length = length or max(len(row) for row in rows)
    ids = np.zeros((len(rows), length), np.int32)
    segments = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], segments[i, : len(row)] = row, 1
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape) * segments
    return Tokens(ids=ids, positions=positions, segments=segments, prefix=segments)


def batch_for(decoder, encoder=None):
    made = tokens(decoder)
    return Batch(
        encoder=None if encoder is None else tokens(encoder),
        decoder=made,
        targets=np.zeros_like(made.ids),
        weights=np.zeros(made.ids.shape, np.float32),
    )


def next_log_probs(model, params, prompt, inputs=None):
    """Return the log-probabilities [V] after the prompt, from the same recurrence in NumPy."""
    embedding, mix, out = (np.asarray(params[name], np.float64) for name in ("embedding", "mix", "out"))
    h = np.zeros(WIDTH) if inputs is None else embedding[inputs].mean(axis=0)
    for token in prompt:
        h = np.tanh(h @ mix + embedding[token])
    logits = model.config.sharpness * h @ out
    return logits - np.log(np.exp(logits).sum())


def all_outputs(model, params, prompt, length, eos, inputs=None):
    """Return the log-probability of every possible output. An output ends with an EOS id or has `length` tokens, and never contains padding (0)."""
    ends = (eos,) if isinstance(eos, int) else eos
    found = {}

    def grow(output, log_prob):
        if len(output) == length or (output and output[-1] in ends):
            found[output] = log_prob
            return
        log_probs = next_log_probs(model, params, prompt + list(output), inputs)
        for token in range(1, model.config.vocab_size):
            grow((*output, token), log_prob + float(log_probs[token]))

    grow((), 0.0)
    return found
