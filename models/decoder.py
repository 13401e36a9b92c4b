"""Decoder-only language models with a causal mask or a prefix mask (GPT; prefix LM, Raffel et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.models.checks import one_of
from t2t.models.config import StackConfig
from t2t.models.functional import FunctionalModel, Network
from t2t.models.inputs import Embeddings, Head, last, lengths
from t2t.models.transformer import Layers, Stack
from t2t.models.transformer_config import TransformerConfig
from t2t.nn.aux import Aux
from t2t.nn.dropout import Keys
from t2t.nn.mixers import Context, Needs
from t2t.nn.model import Cache, Capability, Kind
from t2t.types import Batch, Tokens

DecoderMask = Literal["causal", "prefix"]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(TransformerConfig):
    """A decoder-only language model.

    Args:
        decoder: the stack of layers.
        embedding_norm: normalize the embeddings (BLOOM).
        mask: "causal": a token sees itself and the tokens before it. "prefix": it also sees all tokens of the prefix that `Tokens.prefix` marks in its segment.
    """

    kind: ClassVar[Kind] = "decoder"
    decoder: StackConfig
    mask: DecoderMask = "causal"
    embedding_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("mask", self.mask, DecoderMask)

    def _needs(self, side: str) -> Needs:
        return replace(super()._needs(side), prefix=self.mask == "prefix")

    @property
    def noncausal_prefix(self) -> bool:
        """Whether `mask` is "prefix"."""
        return self.mask == "prefix"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the model can do. With a prefix mask it cannot predict its inputs, because they see each other."""
        return super().capabilities - ({"predict_inputs"} if self.noncausal_prefix else set())

    @property
    def stacks(self) -> tuple[StackConfig, ...]:
        """The decoder's stack."""
        return (self.decoder,)

    def build(self) -> FunctionalModel:
        """Return the model."""
        return FunctionalModel(self, DecoderNetwork(self))


class DecoderNetwork(Network):
    """Embeddings, a stack and a head."""

    def __init__(self, config: DecoderConfig) -> None:
        self.prefix = config.mask == "prefix"
        self.embeddings = Embeddings(config, config.decoder, normed=config.embedding_norm)
        self.decoder = Stack(config, config.decoder)
        self.lm_head = Head(config, config.decoder)

    def forward(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L D"], Aux]:
        """Run the stack on `batch.decoder`."""
        tokens = decoder_tokens(batch)
        context = self._context(tokens, keys)
        return self.decoder(self.embeddings(tokens, keys), context)

    def head(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 logits."""
        return self.lm_head(hidden, self.embeddings)

    def start(self, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Process the prompt."""
        tokens = decoder_tokens(batch)
        check_room(self.embeddings, tokens, length)
        keys = Keys(None)
        context = self._context(tokens, keys)
        x, cache, memory = self.decoder.prefill(self.embeddings(tokens, keys), context, length)
        rows = cache_rows(tokens, length)
        if context.prefix is not None:
            rows["prefix"] = jnp.asarray(context.prefix, jnp.int32)
        return self.head(last(x, rows["length"])), {"rows": rows, "layers": {"cache": cache, "memory": memory}}

    def step(self, cache: Cache, ids: Int[Array, "B"], layers: Layers = None) -> tuple[Float[Array, "B V"], Cache]:
        """Process one more token per row."""
        x, cache = decode_step(self.embeddings, self.decoder, cache, ids, layers=layers)
        return self.head(x), cache

    def layer_params(self) -> Layers:
        """Return the parameters of each layer of the decoder."""
        return self.decoder.layer_params()

    def _context(self, tokens: Tokens, keys: Keys) -> Context:
        return Context(
            segments=tokens.segments,
            positions=jnp.asarray(tokens.positions),
            prefix=tokens.prefix if self.prefix else None,
            keys=keys,
        )


def decoder_tokens(batch: Batch) -> Tokens:
    """Return the decoder's tokens."""
    assert batch.decoder is not None, "the batch has no decoder tokens"
    return batch.decoder


def check_room(embeddings: Embeddings, tokens: Tokens, length: int) -> None:
    """Raise UserError if the prompt is longer than `length`, or `length` is more than the number of learned positions."""
    if tokens.ids.shape[1] > length:
        raise UserError(
            f"the decoder's prompt has {tokens.ids.shape[1]} positions, but length allows only {length} in total. Nearest: {tokens.ids.shape[1]}."
        )
    embeddings.check(length)


def cache_rows(tokens: Tokens, length: int) -> dict[str, Array]:
    """Return the "rows" part of a cache with room for `length` positions, after the prompt.

    length: number of tokens of each row, [B].
    prompt: segments of the prompt's positions, [B P].
    room:   segments of all positions there is room for, [B length]: a single segment that starts at 0.
    """
    prompt = (jnp.asarray(tokens.segments) > 0).astype(jnp.int32)
    return {"length": lengths(tokens), "prompt": prompt, "room": jnp.ones((prompt.shape[0], length), jnp.int32)}


def decode_step(
    embeddings: Embeddings,
    stack: Stack,
    cache: Any,
    ids: Int[Array, "B"],
    memory_segments: Any = None,
    layers: Layers = None,
) -> tuple[Float[Array, "B D"], Any]:
    """Run a decoder's stack on one more token per row.

    If the cache has "prompt_length", its rows share their prompt: the prompt is in the memory, and each row's own cache holds the positions after it.

    memory_segments: segments of the encoder's tokens, with cross attention; consecutive rows may share one.
    layers: see `Stack.step`.
    """
    rows = cache["rows"]
    index, prompt_length = rows["length"], rows.get("prompt_length")
    prompt, prefix = None, rows.get("prefix")
    if prompt_length is not None:
        times = index.shape[0] // rows["prompt"].shape[0]
        prompt = jnp.repeat(rows["prompt"], times, axis=0)
        prefix = None if prefix is None else jnp.repeat(prefix, times, axis=0)
    keys = Keys(None)
    x = embeddings.at(ids[:, None], index[:, None], None, keys)
    context = Context(
        segments=jnp.ones_like(index)[:, None],
        positions=index[:, None],
        prefix=prefix,
        memory_segments=memory_segments,
        index=index if prompt_length is None else index - prompt_length,
        room=rows["room"],
        prompt=prompt,
        keys=keys,
    )
    layer_states = cache["layers"]
    x, caches = stack.step(x, layer_states["cache"], layer_states["memory"], context, layers)
    return x[:, 0], {
        "rows": {**rows, "length": index + 1},
        "layers": {"cache": caches, "memory": layer_states["memory"]},
    }
