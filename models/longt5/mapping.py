"""Conversion of LongT5 to and from `transformers` (LongT5ForConditionalGeneration, LongT5EncoderModel)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry, normalised, same
from t2t.models.config import StackConfig
from t2t.models.encoder import EncoderConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.longt5.presets import GLOBAL_BLOCK, WINDOW
from t2t.models.t5.mapping import T5, stack_entries
from t2t.nn.model import ModelConfig

_LOCAL, _GLOBAL = "local", "transient-global"


class LongT5(T5):
    """LongT5: T5 whose encoder has a window, and with transient-global attention also sees the sums of blocks."""

    name: ClassVar[str] = "LongT5"
    model_types: ClassVar[tuple[str, ...]] = ("longt5",)
    model: ClassVar[str] = "LongT5"

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. A token of the encoder sees `local_radius` tokens on either side."""
        kind = options.take("encoder_attention_type", _LOCAL)
        if kind not in (_LOCAL, _GLOBAL):
            raise options.refuse("encoder_attention_type", kind, f"expected {_LOCAL} or {_GLOBAL}")
        size, radius = options.size("global_block_size", GLOBAL_BLOCK), options.size("local_radius", WINDOW // 2)
        config = super().config(options, weights)
        assert isinstance(config, EncoderDecoderConfig | EncoderConfig)
        encoder = replace(config.encoder, window=2 * radius, global_block=size if kind == _GLOBAL else None)
        return replace(config, encoder=encoder)

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        options = super().options(config)
        if options is None:
            return None
        assert isinstance(config, EncoderDecoderConfig | EncoderConfig)
        window, size = config.encoder.window, config.encoder.global_block
        if window is None or window < 2:
            return None
        kind = {"encoder_attention_type": _LOCAL if size is None else _GLOBAL, "local_radius": window // 2}
        return {**options, **kind, **({} if size is None else {"global_block_size": size})}

    def stack(self, side: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of one stack. The encoder's self-attention has another name."""
        if side == "decoder":
            return super().stack(side, stack)
        if stack.global_block is None:
            return stack_entries(side, stack, "LocalSelfAttention")
        attention = "TransientGlobalSelfAttention"
        theirs = f"{side}.block.{{layer}}.layer.0.{attention}"
        first = theirs.format(layer=0)
        return [
            *stack_entries(side, stack, attention),
            same(f"{first}.global_relative_attention_bias.weight", f"{side}/global_bias/table"),
            *normalised(f"{theirs}.global_input_layer_norm", f"{side}/layers/attention/global_norm", bias=False),
        ]
