"""Kernels as packed integers in the layout of compressed-tensors, read back by hand."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from t2t.errors import UserError
from t2t.export.directory import flatten, unflatten
from t2t.export.huggingface import opened
from t2t.export.packed_integers import pack, unpack
from t2t.launch.export import export
from t2t.models.families import family_of
from t2t.nn.weights.packing import packed
from t2t.optim import Trainable
from t2t.train.run import SavedRun
from tests.export.test_huggingface import FAMILIES, SIZES, saved
from tests.models.tiny import config, params_of

NAME = "model.layers.1.mlp.down_proj.weight"
WIDE = config("llama", **SIZES, d_model=64, d_ff=128)


def read(directory, name, bits):
    """Return the codes [O I] and the scales [O G] of a weight, from the bits of its words one by one."""
    tensors = load_file(directory / "model.safetensors")
    words, shape = tensors[f"{name}_packed"], tensors[f"{name}_shape"]
    assert (words.dtype, shape.dtype) == (np.int32, np.int64)
    codes = [
        [(int(row[place * bits // 32]) >> place * bits % 32) % 2**bits - 2 ** (bits - 1) for place in range(shape[1])]
        for row in words
    ]
    assert np.shape(codes) == tuple(shape)
    return np.array(codes), tensors[f"{name}_scale"]


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_codes_are_unpacked(bits):
    largest = 2 ** (bits - 1) - 1
    codes = np.random.default_rng(0).integers(-largest, largest + 1, (3, 11)).astype(np.int8)
    words = pack(codes, bits)
    assert (words.dtype, words.shape) == (np.int32, (3, 2 if bits == 4 else 3))
    np.testing.assert_array_equal(unpack(words, 11, bits), codes)


@pytest.mark.parametrize(
    ("format", "bits", "groups"), [("int4_groups", 4, 2), pytest.param("int8", 8, 1, marks=pytest.mark.slow)]
)
def test_the_command_writes_codes_scales_and_what_stays_floats(format, bits, groups, tmp_path, capsys):
    params = saved(tmp_path / "run", WIDE)
    export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"), quantize=format)
    assert "check: 14 weights with 81,920 values are packed" in capsys.readouterr().err
    codes, scales = read(tmp_path / "out", NAME, bits)
    kernel = np.asarray(params["decoder"]["layers"]["mlp"]["down"]["kernel"][1])
    values = kernel.T.reshape(64, groups, -1)
    largest = 2 ** (bits - 1) - 1
    np.testing.assert_allclose(scales, np.abs(values).max(-1) / largest, rtol=1e-6)
    assert np.abs(codes).max() == largest
    # Each value is rounded to the nearest one.
    restored = codes.reshape(values.shape) * scales[..., None]
    assert (np.abs(restored - values) <= 0.5001 * scales[..., None]).all()
    options = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    weights = options["config_groups"]["group_0"]["weights"]
    assert (options["quant_method"], options["format"]) == ("compressed-tensors", "pack-quantized")
    assert (weights["num_bits"], weights["strategy"]) == (bits, "group" if groups > 1 else "channel")
    assert weights["group_size"] == (64 if groups > 1 else None)
    assert {"lm_head", "model.embed_tokens"} <= set(options["ignore"])
    assert NAME.removesuffix(".weight") not in options["ignore"]
    line = r"quant_method is 'compressed-tensors': quantized weights in this layout are not read\. Nearest: .* float weights\.$"
    with pytest.raises(UserError, match=line), opened(tmp_path / "out", family_of):
        pass


@pytest.mark.slow
def test_codes_that_a_run_stores_are_written_as_they_are(tmp_path):
    floats = params_of(WIDE)[1]
    model = WIDE.build().quantized("int4_groups")
    random = np.random.default_rng(0)
    wanted, codes_of = flatten(model.compressed(floats)), {}
    for path in model.quantized_kernels:
        # Rounding them again would give other codes: no group has the largest one.
        codes = random.integers(-5, 6, (*wanted[f"{path}/codes"].shape[:-1], 2 * wanted[f"{path}/codes"].shape[-1]))
        codes_of[path] = codes
        wanted[f"{path}/codes"] = np.stack([np.asarray(packed((one + 8).astype(np.uint8))) for one in codes])
    trainable = Trainable(quantize="int4_groups", exclude=tuple(sorted(model.quantized_kernels)))
    saved(tmp_path / "run", WIDE, params=unflatten(wanted), trainable=trainable)
    export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"), quantize="int4_groups")
    found, scales = read(tmp_path / "out", NAME, 4)
    path = "decoder/layers/mlp/down/kernel"
    np.testing.assert_array_equal(found, codes_of[path][1])
    np.testing.assert_array_equal(scales, wanted[f"{path}/scales"][1])
    with pytest.raises(
        UserError, match=r"--quantize int8: the kernels of .* are stored in int4_groups.*Nearest: int4_g"
    ):
        export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "other"), quantize="int8")


@pytest.mark.parametrize(
    ("settings", "format", "line"),
    [
        (FAMILIES["GPT-2"], "int8", r"^--quantize int8: .*c_attn.weight is not the weight of a linear layer"),
        (FAMILIES["LLaMA"], "int4_groups", r"has 16 inputs, which is no multiple of 64.*Nearest: --quantize int4\.$"),
        (
            config("moe", shared_expert_d_ff=None, **SIZES),
            "int4",
            r"^quantize 'int4' \(--quantize\): the kernels of experts cannot",
        ),
    ],
    ids=["no linear layers", "small groups", "experts"],
)
def test_what_the_layout_has_no_place_for_is_refused_before_parameters_are_read(
    settings, format, line, tmp_path, monkeypatch
):
    saved(tmp_path / "run", settings)
    monkeypatch.delattr(SavedRun, "params")
    with pytest.raises(UserError, match=line):
        export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"), quantize=format)
    assert not (tmp_path / "out").exists()
