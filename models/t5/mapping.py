"""Conversion of T5, mT5, Flan-T5, ByT5 and umT5 to and from `transformers`: T5ForConditionalGeneration, T5EncoderModel and their variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Transposed, linear, normalised, same
from t2t.models.config import StackConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.t5.presets import encoder_of, t5
from t2t.nn.model import ModelConfig

_TABLES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


class T5(Family):
    """T5 of both versions, and the models that share its code: mT5, Flan-T5, ByT5."""

    name = "T5"
    model_types: ClassVar[tuple[str, ...]] = ("t5", "mt5")
    left_out: ClassVar[Mapping[str, str]] = {
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "cross attention has no relative positions"
    }
    relative_per_layer = False
    model: ClassVar[str] = "T5"
    """Prefix of the names of its classes."""

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration, of an encoder alone for T5EncoderModel. The head is tied if its tensor is missing or equal to the embeddings."""
        alone = options.architecture.endswith("EncoderModel")
        options.free("n_positions", "scalable_attention", "add_cross_attention")
        options.must("is_decoder", False, why="an encoder-decoder is expected")
        activation, gated = self.feed_forward(options)
        table = next((name for name in _TABLES if name in weights.names), None)
        head = "lm_head.weight" if "lm_head.weight" in weights.names else None
        tied = head is None or table is None or weights.equal(head, table)
        layers = options.size("num_layers")
        config = t5(
            num_layers=layers,
            num_decoder_layers=options.size("num_decoder_layers", layers),
            d_model=options.size("d_model"),
            num_heads=options.size("num_heads"),
            head_dim=options.size("d_kv"),
            d_ff=options.size("d_ff"),
            vocab_size=options.size("vocab_size"),
            buckets=options.size("relative_attention_num_buckets", 32),
            max_distance=options.size("relative_attention_max_distance", 128),
            relative_per_layer=self.relative_per_layer,
            norm_epsilon=options.number("layer_norm_epsilon", 1e-6),
            dropout=options.number("dropout_rate", 0.1),
            activation=activation,
            gated=gated,
            tied=tied,
            scaled_head=not alone and self.scaled(options, tied),
        )
        if alone:
            options.free("tie_word_embeddings", "scale_decoder_outputs")
        return encoder_of(config) if alone else config

    def feed_forward(self, options: Options) -> tuple[str, bool]:
        """Return the activation of feed-forward layers, and whether they are gated."""
        gate, _, function = str(options.take("feed_forward_proj", "relu")).rpartition("-")
        gated = gate == "gated"
        if gate not in ("", "gated"):
            raise options.refuse(
                "feed_forward_proj", f"{gate}-{function}", "expected an activation, with or without the prefix gated-"
            )
        function = "gelu_new" if gated and function == "gelu" else function
        activation = Options({"feed_forward_proj": function}, where=options.where).activation(
            "feed_forward_proj", "relu"
        )
        options.must("dense_act_fn", function, why="feed_forward_proj has another activation")
        options.must("is_gated_act", gated, why="feed_forward_proj contradicts it")
        return activation, gated

    def scaled(self, options: Options, tied: bool) -> bool:
        """Return whether logits are divided by sqrt(d_model), as in T5 1.0. Those of mT5 never are.

        transformers 5 sets tie_word_embeddings to true regardless of the weights; scale_decoder_outputs has the original value.
        Raises UserError if the option says that the head is tied, but the weights have a different head.
        """
        saved = options.take("scale_decoder_outputs", None)
        tied_option = options.flag("tie_word_embeddings", True)
        if options.take("model_type", "t5") == "mt5":
            return False
        if saved is not None:
            return options.flag("scale_decoder_outputs", True)
        if not tied:
            options.must("tie_word_embeddings", False, why="lm_head.weight exists and differs from the embeddings")
        return tied_option

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderDecoderConfig | EncoderConfig):
            return None
        stack = config.encoder
        if stack.relative_per_layer != self.relative_per_layer:
            return None
        alone = isinstance(config, EncoderConfig)
        if alone and (stack.positions != "relative" or stack.norm != "rms"):
            return None
        function = activation_name(stack.activation)
        if stack.gated:
            function = "gated-gelu" if function == "gelu_new" else f"gated-{function}"
        return {
            "architectures": [f"{self.model}{'EncoderModel' if alone else 'ForConditionalGeneration'}"],
            "model_type": self.model_types[0],
            "is_encoder_decoder": True,
            "vocab_size": config.vocab_size,
            "d_model": stack.d_model,
            "d_kv": stack.head_size,
            "d_ff": stack.d_ff,
            "num_layers": stack.num_layers,
            "num_decoder_layers": config.stacks[-1].num_layers,
            "num_heads": stack.num_heads,
            "relative_attention_num_buckets": stack.buckets,
            "relative_attention_max_distance": stack.max_distance,
            "dropout_rate": config.dropout,
            "layer_norm_epsilon": stack.norm_epsilon,
            "feed_forward_proj": function,
            "tie_word_embeddings": config.scaled_head,
            "scale_decoder_outputs": config.scaled_head,
            "decoder_start_token_id": 0,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        if isinstance(config, EncoderConfig):
            first, copy, _ = _TABLES
            return [same(first, "embeddings/token/table", copy), *self.stack("encoder", config.encoder)]
        assert isinstance(config, EncoderDecoderConfig)
        if config.shared:
            raise RuntimeError(
                "its encoder and decoder have separate parameters, the model's share them (model.shared)"
            )
        first, *copies = (*_TABLES, "lm_head.weight") if config.tied else _TABLES
        table = [same(first, "embeddings/token/table", *copies)]
        if not config.tied:
            table.append(Entry("lm_head.weight", ("lm_head/kernel",), Transposed()))
        return [*table, *self.stack("encoder", config.encoder), *self.stack("decoder", config.decoder)]

    def stack(self, side: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of one stack: "encoder" or "decoder"."""
        return stack_entries(side, stack)


class UMT5(T5):
    """umT5: T5 with separate relative positions in each layer."""

    name = "umT5"
    model_types = ("umt5",)
    relative_per_layer = True
    model = "UMT5"


def feed_forward_names(stack: StackConfig) -> list[tuple[str, str]]:
    """Return the names of the feed-forward kernels in T5 checkpoints, each with its name in this library."""
    return [("wi_0", "gate"), ("wi_1", "up"), ("wo", "down")] if stack.gated else [("wi", "up"), ("wo", "down")]


def stack_entries(
    side: str, stack: StackConfig, attention: str = "SelfAttention", feed_forward: str = "DenseReluDense"
) -> list[Entry]:
    """Return the entries of one stack. attention, feed_forward: names of its self-attention and of its feed-forward layer."""
    block, ours = f"{side}.block.{{layer}}.layer", f"{side}/layers"
    bias = f"layer.0.{attention}.relative_attention_bias.weight"
    table = [
        same(f"{side}.block.{{layer}}.{bias}", f"{ours}/relative_bias/table")
        if stack.relative_per_layer
        else same(f"{side}.block.0.{bias}", f"{side}/relative_bias/table")
    ]
    attentions = [(f"0.{attention}", "attention")]
    if side == "decoder":
        attentions.append(("1.EncDecAttention", "cross_attention"))
    for theirs, own in attentions:
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
            table += linear(f"{block}.{theirs}.{letter}", f"{ours}/{own}/{name}", bias=stack.biases)
        table += normalised(f"{block}.{theirs[0]}.layer_norm", f"{ours}/{own}_norm", bias=stack.norm == "layer")
    last = len(attentions)
    for theirs, own in feed_forward_names(stack):
        table += linear(f"{block}.{last}.{feed_forward}.{theirs}", f"{ours}/mlp/{own}", bias=stack.biases)
    table += normalised(f"{block}.{last}.layer_norm", f"{ours}/mlp_norm", bias=stack.norm == "layer")
    if stack.final_norm:
        table += normalised(f"{side}.final_layer_norm", f"{side}/final_norm", bias=stack.norm == "layer")
    return table
