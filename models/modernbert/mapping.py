"""Conversion of ModernBERT to and from `transformers` (ModernBertForMaskedLM, ModernBertModel, and the heads of `bert/heads.py`)."""

from __future__ import annotations

from typing import Any

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Transposed, fused, linear, normalised, same
from t2t.export.patterns import in_pattern
from t2t.models.bert.heads import Heads
from t2t.models.config import StackConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.modernbert.presets import GLOBAL, LOCAL, WINDOW, modernbert
from t2t.nn.capabilities import OF_TEXT
from t2t.nn.model import ModelConfig
from t2t.nn.rotary import Rotary

_KINDS = {"full_attention": False, "sliding_attention": True}
_POOLING = {"cls": "first", "mean": "mean"}
_BASES = {"full_attention": ("global_rope_theta", GLOBAL.base), "sliding_attention": ("local_rope_theta", LOCAL.base)}


class ModernBert(Family):
    """ModernBERT."""

    name = "ModernBERT"
    model_types = ("modernbert",)
    prefix = "model."
    heads = Heads(model="ModernBert", pooler=None, span="classifier")

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. Without the tensors of a masked-LM head, logits are the product with the embeddings."""
        # `layer_norm_eps` and the rest are in the published files, but `transformers` does not read them.
        options.free(
            "layer_norm_eps", "position_embedding_type", "initializer_cutoff_factor", "deterministic_flash_attn"
        )
        options.free("sparse_prediction", "sparse_pred_ignore_index", "reference_compile", "repad_logits_with_grad")
        for name in ("attention_dropout", "embedding_dropout", "mlp_dropout"):
            options.must(name, 0.0, why="the places of dropout differ here")
        biased = {name: options.flag(name, False) for name in ("attention_bias", "mlp_bias", "norm_bias")}
        head_transform = "head.dense.weight" in weights.names
        layers = options.size("num_hidden_layers", 22)
        rotary, local_rotary = (_rotary(options, kind) for kind in _KINDS)
        config = modernbert(
            num_layers=layers,
            d_model=options.size("hidden_size", 768),
            num_heads=options.size("num_attention_heads", 12),
            d_ff=options.size("intermediate_size", 1152),
            max_length=options.size("max_position_embeddings", 8192),
            vocab_size=options.size("vocab_size", 50_368),
            activation=options.activation("hidden_activation", "gelu"),
            norm="layer" if biased["norm_bias"] else "layer_unbiased",
            norm_epsilon=options.number("norm_eps", 1e-5),
            biases=biased["mlp_bias"],
            attention_biases=biased["attention_bias"],
            init_std=options.number("initializer_range", 0.02),
            local=_local(options, layers),
            window=options.size("local_attention", WINDOW),
            rotary=rotary,
            local_rotary=local_rotary,
            transform_bias=options.flag("classifier_bias", False),
            head_activation=options.activation("classifier_activation", "gelu"),
            **self._head(options, weights, masked_lm=head_transform),
        )
        return config

    def _head(self, options: Options, weights: Weights, *, masked_lm: bool) -> dict[str, Any]:
        bias, pooling = options.flag("decoder_bias", True), options.take("classifier_pooling", "cls")
        if pooling not in _POOLING:
            raise options.refuse("classifier_pooling", pooling, f"supported are {', '.join(_POOLING)}")
        fields = self.heads.read(options, weights, masked_lm=masked_lm)
        if "head" not in fields:
            return {**fields, "head_bias": masked_lm and bias}
        return {
            **fields,
            "answer_transform": True,
            **({"pooling": _POOLING[pooling]} if fields["head"] in OF_TEXT else {}),
        }

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or config.encoder.positions != "rotary":
            return None
        stack = config.encoder
        kinds = _kinds(stack)
        if kinds is None or not stack.norm.startswith("layer"):
            return None
        local = next((place for place in (*stack.first, *stack.pattern) if place.window is not None), None)
        bases = {"full_attention": stack.rotary.base, "sliding_attention": LOCAL.base}
        if local is not None and local.rotary is not None:
            bases["sliding_attention"] = local.rotary.base
        # The names of transformers 4.48 to 4.57, then those of later versions. Both read all of them.
        positions: dict[str, Any] = {_BASES[kind][0]: base for kind, base in bases.items()}
        positions["rope_parameters"] = {
            kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()
        }
        pooling = {ours: theirs for theirs, ours in _POOLING.items()}.get(config.pooling, "cls")
        return {
            "architectures": ["ModernBertForMaskedLM" if config.head_transform else "ModernBertModel"],
            "model_type": "modernbert",
            "vocab_size": config.vocab_size,
            "hidden_size": stack.d_model,
            "num_hidden_layers": stack.num_layers,
            "num_attention_heads": stack.num_heads,
            "intermediate_size": stack.d_ff,
            "hidden_activation": activation_name(stack.activation),
            "max_position_embeddings": stack.max_length,
            "initializer_range": stack.init_std,
            "norm_eps": stack.norm_epsilon,
            "norm_bias": stack.norm == "layer",
            "attention_bias": stack.has_attention_biases,
            "mlp_bias": stack.biases,
            "attention_dropout": 0.0,
            "layer_types": kinds,
            **_every(kinds),
            **positions,
            "local_attention": WINDOW if local is None else local.window,
            "decoder_bias": config.head_bias,
            "classifier_bias": config.transform_bias,
            "classifier_activation": activation_name(config.head_activation or stack.activation),
            "classifier_pooling": pooling,
            "tie_word_embeddings": config.tied,
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        stack, norm_bias = config.encoder, config.encoder.norm == "layer"
        layer, ours = "model.layers.{layer}", "encoder/layers"
        tokens = config.head == "tokens"
        head = config.head_transform and tokens
        copies = ("decoder.weight",) if config.tied and head else ()
        attention, mlp = stack.has_attention_biases, stack.biases
        table = [
            same("model.embeddings.tok_embeddings.weight", "embeddings/token/table", *copies),
            *normalised("model.embeddings.norm", "embeddings/norm", bias=norm_bias),
            *normalised(f"{layer}.attn_norm", f"{ours}/attention_norm", bias=norm_bias),
            *fused(
                f"{layer}.attn.Wqkv", [f"{ours}/attention/{name}" for name in ("query", "key", "value")], bias=attention
            ),
            *linear(f"{layer}.attn.Wo", f"{ours}/attention/out", bias=attention),
            *normalised(f"{layer}.mlp_norm", f"{ours}/mlp_norm", bias=norm_bias),
            *fused(f"{layer}.mlp.Wi", [f"{ours}/mlp/{name}" for name in ("gate", "up")], bias=mlp),
            *linear(f"{layer}.mlp.Wo", f"{ours}/mlp/down", bias=mlp),
            *normalised("model.final_norm", "encoder/final_norm", bias=norm_bias),
        ]
        table = [
            entry
            for entry in in_pattern(table, "encoder", stack)
            if not entry.ours[0].startswith("encoder/first/0/attention_norm/")
        ]
        if head or (config.answer_transform and not tokens):
            table += linear("head.dense", "transform/dense", bias=config.transform_bias)
            table += normalised("head.norm", "transform/norm", bias=norm_bias)
        if head and config.head_bias:
            table.append(same("decoder.bias", "lm_head/bias"))
        if head and not config.tied:
            table.append(Entry("decoder.weight", ("lm_head/kernel",), Transposed()))
        return [*table, *self.heads.entries(config)]


def _rotary(options: Options, kind: str) -> Rotary:
    """Read the frequencies of one kind of layer: `global_rope_theta` (transformers 4), or `rope_parameters` (transformers 5)."""
    name, default = _BASES[kind]
    base = options.number(name, default)
    inner = Options(options.group("rope_parameters").get(kind) or {}, where=f"{options.where}: rope_parameters.{kind}")
    inner.must("rope_type", "default", why="scaled rotary positions of ModernBERT are not supported")
    found = Rotary(base=float(inner.number("rope_theta", base)))
    inner.finish()
    return found


def _local(options: Options, layers: int) -> list[bool]:
    """Return for each layer whether it has a window. Reads `layer_types`, or if that is missing `global_attn_every_n_layers`."""
    every = options.size("global_attn_every_n_layers", 3)
    kinds = options.take("layer_types", None)
    if kinds is None:
        return [layer % every > 0 for layer in range(min(layers, 10_000))]
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= set(_KINDS):
        raise options.refuse("layer_types", kinds, f"expected {layers} of {', '.join(_KINDS)}")
    return [_KINDS[kind] for kind in kinds]


def _kinds(stack: StackConfig) -> list[str] | None:
    """Return the kind of each layer, or None if there is not one layer before the pattern."""
    if len(stack.first) != 1 or not stack.pattern:
        return None
    rest = stack.num_layers - 1
    places = (*stack.first, *(stack.pattern * (rest // len(stack.pattern) + 1))[:rest])
    return ["full_attention" if place.window is None else "sliding_attention" for place in places]


def _every(kinds: list[str]) -> dict[str, int]:
    """Return the option of transformers 4 that gives the kinds, or {} if it cannot."""
    for every in range(1, len(kinds) + 1):
        if kinds == ["sliding_attention" if layer % every else "full_attention" for layer in range(len(kinds))]:
            return {"global_attn_every_n_layers": every}
    return {}
