"""Names of T5 parameters in T5X checkpoints and in those of its predecessor, Mesh TensorFlow."""

from __future__ import annotations

from t2t.errors import UserError
from t2t.export.huggingface import Source
from t2t.export.mapping import Entry, Transposed, check_shapes, resolve, same, tensors
from t2t.export.t5x import Arrays
from t2t.models.config import StackConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.t5.mapping import T5, feed_forward_names
from t2t.nn.model import ModelConfig

_ATTENTION = ("query", "key", "value", "out")
_LETTERS = {"query": "q", "key": "k", "value": "v", "out": "o"}


def understood(arrays: Arrays, config: ModelConfig) -> Source:
    """Return a T5X checkpoint of either layout as a source. The checkpoint does not contain its configuration, so `config` must be given.

    Raises UserError if the model is not a T5, or if arrays are missing or left over.
    """
    if not isinstance(config, EncoderDecoderConfig):
        raise UserError(
            f"{arrays.directory}: T5X checkpoints can only be read as a T5; the preset is a model of kind {config.kind}. Nearest: t5:1.1-small."
        )
    model = config.build()
    wanted = tensors(legacy(config) if arrays.legacy else native(config), model.specs)
    names, _ = resolve(wanted, arrays.names, where=arrays.directory)
    check_shapes(wanted, names, arrays.shape, where=arrays.directory)
    return Source(arrays, T5(), config, model, wanted, names, {})


def native(config: EncoderDecoderConfig) -> list[Entry]:
    """Return the entries for the minimal and full T5 examples of T5X, which have a separate parameter for each layer."""
    table = [same("token_embedder/embedding", "embeddings/token/table")]
    if not config.tied:
        table.append(same("decoder/logits_dense/kernel", "lm_head/kernel"))
    for side in ("encoder", "decoder"):
        stack: StackConfig = getattr(config, side)
        layer, ours = f"{side}/layers_{{layer}}", f"{side}/layers"
        table.append(Entry(f"{side}/relpos_bias/rel_embedding", (f"{side}/relative_bias/table",), Transposed()))
        table.append(same(f"{side}/{side}_norm/scale", f"{side}/final_norm/scale"))
        if side == "encoder":
            parts = [("attention", "pre_attention_layer_norm", "attention")]
        else:
            parts = [
                ("self_attention", "pre_self_attention_layer_norm", "attention"),
                ("encoder_decoder_attention", "pre_cross_attention_layer_norm", "cross_attention"),
            ]
        for theirs, norm, own in parts:
            table += [same(f"{layer}/{theirs}/{name}/kernel", f"{ours}/{own}/{name}/kernel") for name in _ATTENTION]
            table.append(same(f"{layer}/{norm}/scale", f"{ours}/{own}_norm/scale"))
        table += [
            same(f"{layer}/mlp/{theirs}/kernel", f"{ours}/mlp/{own}/kernel")
            for theirs, own in feed_forward_names(stack)
        ]
        table.append(same(f"{layer}/pre_mlp_layer_norm/scale", f"{ours}/mlp_norm/scale"))
    return table


def legacy(config: EncoderDecoderConfig) -> list[Entry]:
    """Return the entries for Mesh TensorFlow's variables, which have relative positions in the first block."""
    table = [same("shared/embedding", "embeddings/token/table")]
    if not config.tied:
        table.append(same("decoder/logits/kernel", "lm_head/kernel"))
    for side in ("encoder", "decoder"):
        stack: StackConfig = getattr(config, side)
        block, ours = f"{side}/block_{{layer}}", f"{side}/layers"
        bias = f"{side}/block_000/layer_000/SelfAttention/relative_attention_bias"
        table.append(Entry(bias, (f"{side}/relative_bias/table",), Transposed()))
        table.append(same(f"{side}/rms_norm/scale", f"{side}/final_norm/scale", f"{side}/final_layer_norm/scale"))
        parts = [("layer_000", "SelfAttention", "attention")]
        if side == "decoder":
            parts.append(("layer_001", "EncDecAttention", "cross_attention"))
        for place, theirs, own in parts:
            for name, letter in _LETTERS.items():
                table.append(same(f"{block}/{place}/{theirs}/{letter}", f"{ours}/{own}/{name}/kernel"))
            table.append(_norm(f"{block}/{place}", f"{ours}/{own}_norm/scale"))
        last = f"{block}/layer_{len(parts):03d}"
        for theirs, own in feed_forward_names(stack):
            table.append(same(f"{last}/DenseReluDense/{theirs}/kernel", f"{ours}/mlp/{own}/kernel"))
        table.append(_norm(last, f"{ours}/mlp_norm/scale"))
    return table


def _norm(place: str, ours: str) -> Entry:
    return same(f"{place}/rms_norm/scale", ours, f"{place}/layer_norm/scale")
