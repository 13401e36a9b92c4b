"""gpt-oss as it was published: its config.json with smaller sizes, its experts in MXFP4, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from t2t.errors import UserError
from t2t.export.huggingface import opened
from t2t.export.mxfp4 import unpack
from t2t.models import preset
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

CASE = next(case for case in CASES if case.name == "gpt-oss as published")
SIZES = {
    "head_dim": 8,
    "hidden_size": 32,
    "intermediate_size": 48,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "sliding_window": 4,
    "vocab_size": 96,
}
SCALING = {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096}
SCALING |= {"rope_type": "yarn", "truncate": False}
PUBLISHED = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "hidden_act": "silu",
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "model_type": "gpt_oss",
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-05,
    "rope_scaling": SCALING,
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
}
"""gpt-oss-20b, without its sizes."""
TODAY = {"rope_parameters": {**SCALING, "rope_theta": 150000.0}, "router_aux_loss_coef": 0.9}
RANDOM = np.random.default_rng(0)


def write_published(directory, **options):
    """Write the published configuration with MXFP4 experts. Return the bytes of the experts by name."""
    write_directory(CASE, directory)
    (directory / "config.json").write_text(json.dumps({**PUBLISHED, **SIZES, **options}))
    tensors = load_file(directory / "model.safetensors")
    packed = {}
    # 32 inputs are one block of a row. 48 are not a multiple of 32, so the second product keeps its floats.
    for name in [name for name in tensors if name.endswith("experts.gate_up_proj")]:
        experts, width, columns = tensors.pop(name).shape
        packed[f"{name}_blocks"] = RANDOM.integers(0, 256, (experts, columns, width // 32, 16), np.uint8)
        packed[f"{name}_scales"] = RANDOM.integers(115, 128, (experts, columns, width // 32), np.uint8)
    save_file({**tensors, **packed}, directory / "model.safetensors")
    return packed


def test_the_published_configuration_and_its_experts_are_read(tmp_path):
    write_directory(CASE, tmp_path / "today", **TODAY)
    packed = write_published(tmp_path / "published")
    with opened(tmp_path / "published", family_of) as source, opened(tmp_path / "today", family_of) as today:
        assert source.config == today.config
        assert source.config.decoder.rotary == preset("gptoss:20b").decoder.rotary
        params = source.params(MeshConfig().build())["decoder"]["layers"]
    for place, layer in (("0", 0), ("1", 1)):
        name = f"model.layers.{layer}.mlp.experts.gate_up_proj"
        blocks, scales = packed[f"{name}_blocks"], packed[f"{name}_scales"]
        for row, column in ((0, 0), (3, 17), (2, 94)):
            values = by_hand(blocks[row, column, 0], scales[row, column, 0])
            own = params[place]["moe"]["up" if column % 2 else "gate"][0]
            np.testing.assert_array_equal(own[row, :, column // 2], values)
    assert "quantization_config" not in exportable(source.config)[1]


def by_hand(blocks, scale):
    """Return the numbers of one block: sign, two bits of exponent with a bias of 1, one bit of mantissa."""
    values = []
    for byte in blocks:
        for bits in (int(byte) & 15, int(byte) >> 4):
            sign, exponent, mantissa = -1.0 if bits & 8 else 1.0, bits >> 1 & 3, bits & 1
            value = mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
            values.append(sign * value * 2.0 ** (int(scale) - 127))
    return values


def test_all_sixteen_numbers_of_a_block():
    blocks = np.array(
        [[[[low | high << 4 for low, high in zip(range(0, 16, 2), range(1, 16, 2), strict=True)] * 2]]], np.uint8
    )
    found = unpack(blocks, np.array([[[128]]], np.uint8))
    assert found.shape == (1, 32, 1)
    half = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]
    assert found[0, :16, 0].tolist() == [*half, *(-value for value in half)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.layers.0.mlp.experts.gate_up_proj_scales"),
            r"gate_up_proj_scales is missing, and .*_blocks needs it",
        ),
        (
            lambda t: t.update({"model.layers.0.mlp.experts.gate_up_proj_scales": np.ones((4, 96, 2), np.uint8)}),
            r"_blocks has shape \(4, 96, 1, 16\), and .*_scales has \(4, 96, 2\)",
        ),
        (
            lambda t: t.update({"model.layers.0.mlp.experts.gate_up_proj_blocks": np.ones((4, 96, 1, 16), np.int8)}),
            r"gate_up_proj_blocks has type I8, not U8",
        ),
    ],
)
def test_damaged_experts_are_named(change, message, tmp_path):
    write_published(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of) as source:
        source.params(MeshConfig().build())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantization_config.quant_method is 'fp8': only 'mxfp4'"),
        ({"swiglu_alpha": 2.0}, r"swiglu_alpha is 2.0: another factor in the activation"),
        ({"hidden_act": "gelu"}, r"hidden_act is 'gelu'"),
        ({"layer_types": ["chunked_attention", "full_attention"]}, r"layer_types is 'chunked_attention'"),
        ({"num_experts_per_tok": 5}, r"experts_per_token is 5, more than model.num_experts = 4"),
    ],
)
def test_what_the_layers_lack_is_refused_by_name(options, message, tmp_path):
    write_directory(CASE, tmp_path, **options)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path, family_of):
        pass
    assert "\n" not in str(caught.value)
