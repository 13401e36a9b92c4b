"""Encoder-decoders: a decoder that attends to an encoder's output (Vaswani et al. 2017; T5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.models.checks import check_equal, check_even_buckets
from t2t.models.config import StackConfig
from t2t.models.decoder import cache_rows, check_room, decode_step, decoder_tokens
from t2t.models.encoder import encode
from t2t.models.functional import FunctionalModel, Network
from t2t.models.inputs import Embeddings, Head, last
from t2t.models.transformer import Layers, Stack
from t2t.models.transformer_config import EmbeddingScale, TransformerConfig
from t2t.nn.aux import Aux, added
from t2t.nn.dropout import Keys
from t2t.nn.layers import LayerConfig
from t2t.nn.linear import Linear
from t2t.nn.mixers import Context, Needs
from t2t.nn.model import Cache, Kind
from t2t.sharding import constrain
from t2t.types import Batch, Tokens


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(TransformerConfig):
    """An encoder and a decoder that share their embeddings. Both stacks have the same kind of positions.

    If the encoder's width differs from the decoder's, a separate matrix projects the embeddings to it. With `separate_embeddings` they share nothing.

    Args:
        encoder: the stack that reads the inputs.
        decoder: the stack that writes the targets.
        embedding_norm: normalize the embeddings.
        separate_positions: give the encoder its own learned positions and its own norm of the embeddings (BART). Otherwise both stacks have the same ones.
        separate_embeddings: give the encoder its own embeddings, in its own width (T5Gemma).
        encoder_embedding_scale: with `separate_embeddings`, factor on the encoder's token embeddings. None means the same as `embedding_scale`.
        merged_attention: the decoder attends to its own tokens and to the encoder's output in one softmax, with the same parameters (T5Gemma 2). Otherwise it has
            cross attention after self-attention.
        head_bias: add a bias for each vocabulary entry to the logits (BART, Marian).
        shared: use the same self-attention and feed-forward parameters in both stacks, which must have the same options ("enc-dec, shared" of Raffel et al.
            2020, section 3.2.2: P parameters instead of 2P). Cross attention, norms and relative positions are not shared: the encoder has no cross
            attention, norms are small, and only the encoder's relative positions see both directions. `Model.specs` lists the shared parameters under
            the decoder.
    """

    kind: ClassVar[Kind] = "encoder_decoder"
    encoder: StackConfig
    decoder: StackConfig
    shared: bool = False
    embedding_norm: bool = False
    separate_positions: bool = False
    separate_embeddings: bool = False
    encoder_embedding_scale: EmbeddingScale | None = None
    merged_attention: bool = False
    head_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_even_buckets("encoder", self.encoder)
        sides = ("encoder", self.encoder), ("decoder", self.decoder)
        if not self.separate_embeddings:
            check_equal(
                *sides, ("positions", "learned_positions", "max_length", "position_offset"), "they share embeddings"
            )
            if self.encoder_embedding_scale is not None:
                raise UserError(
                    f"model.encoder_embedding_scale is {self.encoder_embedding_scale}, but model.separate_embeddings is False. Nearest: None."
                )
        elif self.separate_positions:
            raise UserError(
                "model.separate_positions is True, but model.separate_embeddings already separates all embeddings. Nearest: False."
            )
        if self.separate_positions and not self.decoder.has_learned_positions and not self.embedding_norm:
            raise UserError(
                f"model.separate_positions is True, but model.decoder.positions is {self.decoder.positions!r} and model.embedding_norm is False:"
                " there is nothing to separate. Nearest: False."
            )
        if self.merged_attention:
            check_equal(*sides, ("d_model",), "the same attention reads both (model.merged_attention)")
            if self.shared:
                raise UserError(
                    "model.shared is True together with model.merged_attention: the self-attention of both stacks must be the same. Nearest: False."
                )
        if self.shared:
            check_equal(*sides, (field.name for field in fields(StackConfig)), "they share parameters (model.shared)")

    @property
    def stacks(self) -> tuple[StackConfig, ...]:
        """The encoder's stack and the decoder's."""
        return (self.encoder, self.decoder)

    @property
    def merges_attention(self) -> bool:
        """Whether the decoder has merged attention."""
        return self.merged_attention

    def _layers(self) -> Iterator[tuple[LayerConfig, Needs]]:
        yield from super()._layers()
        for layer in (*self.first_of(self.decoder, cross=True), *self.pattern_of(self.decoder, cross=True)):
            yield layer, self._needs("decoder")

    def build(self) -> FunctionalModel:
        """Return the model."""
        return FunctionalModel(self, EncoderDecoderNetwork(self))


class EncoderDecoderNetwork(Network):
    """Embeddings, two stacks and a head."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        self.embeddings = Embeddings(config, config.decoder, normed=config.embedding_norm)
        self.encoder_embeddings = self._own_embeddings(config)
        width, own = config.embedding_size or config.decoder.d_model, config.encoder
        self.encoder_widen = (
            None
            if config.separate_embeddings or own.d_model == config.decoder.d_model
            else Linear(width, own.d_model, (None, "embed"), bias=True, init=own.kernel_init(width))
        )
        self.encoder = Stack(config, config.encoder, bidirectional=True)
        self.decoder = Stack(config, config.decoder, cross=True, memory_width=config.encoder.d_model)
        if config.shared:
            self.encoder.share_layers(self.decoder)
        self.lm_head = Head(config, config.decoder, bias=config.head_bias)

    def _own_embeddings(self, config: EncoderDecoderConfig) -> Embeddings | None:
        """Return the encoder's embeddings; None if both stacks have the same."""
        if config.separate_embeddings:
            scale = config.embedding_scale if config.encoder_embedding_scale is None else config.encoder_embedding_scale
            return Embeddings(config, config.encoder, normed=config.embedding_norm, scale=scale)
        if not config.separate_positions:
            return None
        own = Embeddings(config, config.decoder, normed=config.embedding_norm)
        # One module in two places is one set of parameters in NNX.
        own.token, own.widen = self.embeddings.token, self.embeddings.widen
        return own

    def forward(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B L D"], Aux]:
        """Run the encoder on `batch.encoder`, then the decoder on `batch.decoder`."""
        memory, aux = self.encoded(batch, keys)
        x, more = self.decoder(self.embeddings(decoder_tokens(batch), keys), self._context(batch, memory, keys))
        return x, added(aux, more)

    def encoded(self, batch: Batch, keys: Keys) -> tuple[Float[Array, "B k D"], Aux]:
        """Return the output of the encoder."""
        return encode(self._embedded, self.encoder, batch, keys)

    def _embedded(self, tokens: Tokens, keys: Keys) -> Float[Array, "B k D"]:
        """Embed the encoder's tokens in the encoder's width."""
        embeddings = self.embeddings if self.encoder_embeddings is None else self.encoder_embeddings
        if self.encoder_widen is None:
            return embeddings(tokens, keys)
        return constrain(self.encoder_widen(embeddings.narrow_rows(tokens, keys)), ("batch", "length", None))

    def head(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Return float32 logits."""
        return self.lm_head(hidden, self.embeddings)

    def start(self, batch: Batch, length: int) -> tuple[Float[Array, "B V"], Cache]:
        """Run the encoder, then process the decoder's prompt."""
        tokens = decoder_tokens(batch)
        check_room(self.embeddings, tokens, length)
        keys = Keys(None)
        memory, _ = self.encoded(batch, keys)
        context = self._context(batch, memory, keys)
        x, cache, memories = self.decoder.prefill(self.embeddings(tokens, keys), context, length)
        assert batch.encoder is not None
        rows = {**cache_rows(tokens, length), "memory": jnp.asarray(batch.encoder.segments)}
        return self.head(last(x, rows["length"])), {"rows": rows, "layers": {"cache": cache, "memory": memories}}

    def step(self, cache: Cache, ids: Int[Array, "B"], layers: Layers = None) -> tuple[Float[Array, "B V"], Cache]:
        """Process one more token per row."""
        x, cache = decode_step(self.embeddings, self.decoder, cache, ids, cache["rows"]["memory"], layers)
        return self.head(x), cache

    def layer_params(self) -> Layers:
        """Return the parameters of each layer of the decoder."""
        return self.decoder.layer_params()

    def _context(self, batch: Batch, memory: Float[Array, "B k D"], keys: Keys) -> Context:
        tokens = decoder_tokens(batch)
        assert batch.encoder is not None
        return Context(
            segments=tokens.segments,
            positions=jnp.asarray(tokens.positions),
            memory=memory,
            memory_segments=batch.encoder.segments,
            keys=keys,
        )
