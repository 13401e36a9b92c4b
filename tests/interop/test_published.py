"""Checkpoints as they were published: what older versions of transformers saved, named and left behind; and what must be refused."""

import contextlib
import sys
from unittest.mock import MagicMock

import jax
import ml_dtypes
import numpy as np
import pytest
import tyro
from safetensors.numpy import load_file, save_file

from t2t.api.importing import describe_left_out
from t2t.errors import UserError
from t2t.export.huggingface import opened
from t2t.export.neutral import NEUTRAL
from t2t.export.published import wrapper
from t2t.launch.convert_check import convert_check
from t2t.launch.import_model import import_model
from t2t.models.families import family_of
from t2t.sharding import MeshConfig
from tests.interop.cases import CASES
from tests.interop.goldens import write_directory

BY_NAME = {case.name: case for case in CASES}
T5, T5_11, UMT5 = BY_NAME["T5 1.0"], BY_NAME["T5 1.1"], BY_NAME["umT5 1.1"]
BERT, ROBERTA, ALBERT = BY_NAME["BERT masked LM"], BY_NAME["RoBERTa masked LM"], BY_NAME["ALBERT one group"]
DISTILBERT, GPT = BY_NAME["DistilBERT masked LM"], BY_NAME["GPT-2 as published"]
LLAMA, TIED = BY_NAME["LLaMA 3: grouped, llama3 positions"], BY_NAME["LLaMA SmolLM2: tied, linear positions"]
MISTRAL = BY_NAME["LLaMA Mistral: sliding window"]


def read(directory):
    with opened(directory, family_of) as source:
        return source.params(MeshConfig().build()), dict(source.left_out)


def rewritten(directory, change):
    """Write the directory's tensors again, as `change` gives them."""
    tensors = load_file(directory / "model.safetensors")
    save_file(change(tensors) or tensors, directory / "model.safetensors")


def refused(directory, message):
    with pytest.raises(UserError, match=message) as caught:
        read(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def gamma_and_beta(tensors):
    renamed = {name: name for name in tensors}
    for name in tensors:
        if "LayerNorm" in name:
            renamed[name] = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
    return {renamed[name]: value for name, value in tensors.items()}


def with_prefix(prefix):
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def with_more(**more):
    def change(tensors):
        for name, shape in more.items():
            tensors[name.replace("__", ".")] = np.ones(shape, np.float32)

    return change


EXTRA_BIAS = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

SAME = {
    "T5's cross-attention bias": (T5, lambda t: t.update({EXTRA_BIAS: np.ones((8, 3), np.float32)})),
    "mT5's too": (T5_11, lambda t: t.update({EXTRA_BIAS: np.ones((8, 3), np.float32)})),
    "T5's tables written out": (
        T5,
        lambda t: t.update(
            {f"{side}.embed_tokens.weight": t["shared.weight"].copy() for side in ("encoder", "decoder")}
            | {"lm_head.weight": t["shared.weight"].copy()}
        ),
    ),
    "T5's table under another name": (T5, lambda t: t.update({"encoder.embed_tokens.weight": t.pop("shared.weight")})),
    "BERT's gamma and beta": (BERT, gamma_and_beta),
    "ALBERT's gamma and beta": (ALBERT, gamma_and_beta),
    "BERT's next sentence without the pooler": (
        BERT,
        with_more(cls__seq_relationship__weight=(2, 32), cls__seq_relationship__bias=(2,)),
    ),
    "ALBERT's order of sentences in part": (ALBERT, with_more(sop_classifier__classifier__bias=(2,))),
    "RoBERTa's pooler in part": (ROBERTA, with_more(roberta__pooler__dense__weight=(32, 32))),
    "BERT's decoder written out": (
        BERT,
        lambda t: t.update(
            {
                "cls.predictions.decoder.weight": t["bert.embeddings.word_embeddings.weight"].copy(),
                "cls.predictions.decoder.bias": t["cls.predictions.bias"].copy(),
            }
        ),
    ),
    "DistilBERT's projector written out": (
        DISTILBERT,
        lambda t: t.update(
            {"vocab_projector.weight": t["distilbert.embeddings.word_embeddings.weight"].copy()},
        ),
    ),
    "BERT's positions": (BERT, lambda t: t.update({"bert.embeddings.position_ids": np.arange(24)[None]})),
    "RoBERTa's positions": (ROBERTA, lambda t: t.update({"roberta.embeddings.position_ids": np.arange(24)[None]})),
    "DistilBERT's positions": (
        DISTILBERT,
        lambda t: t.update({"distilbert.embeddings.position_ids": np.arange(24)[None]}),
    ),
    "ALBERT's positions and types": (
        ALBERT,
        lambda t: t.update(
            {"albert.embeddings.position_ids": np.arange(24), "albert.embeddings.token_type_ids": np.zeros(24, int)}
        ),
    ),
    "GPT-2's masks": (
        GPT,
        lambda t: t.update(
            {
                f"transformer.h.{i}.attn.{name}": np.tril(np.ones((1, 1, 24, 24), np.uint8))
                for i in range(2)
                for name in ("bias", "masked_bias")
            }
        ),
    ),
    "GPT-2's head written out": (
        GPT,
        lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].copy()}),
    ),
    "LLaMA's frequencies": (
        LLAMA,
        with_more(model__layers__0__self_attn__rotary_emb__inv_freq=(4,), model__rotary_emb__inv_freq=(4,)),
    ),
    "LLaMA's head written out": (
        TIED,
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}),
    ),
    "LLaMA within another model": (LLAMA, with_prefix("model.")),
    "Mistral saved by several GPUs": (MISTRAL, with_prefix("module.")),
    "LLaMA compiled by several GPUs": (LLAMA, with_prefix("module._orig_mod.")),
    "T5 within another model": (T5, with_prefix("transformer.")),
    "umT5 saved by several GPUs": (UMT5, with_prefix("module.")),
    "BERT within a BERT": (BERT, with_prefix("bert.")),
    "GPT-2 within another model": (GPT, with_prefix("transformer.")),
    "DistilBERT compiled": (DISTILBERT, with_prefix("_orig_mod.")),
}


@pytest.mark.parametrize("name", SAME)
def test_what_was_published_gives_the_same_parameters(name, tmp_path):
    case, change = SAME[name]
    for place in ("today", "published"):
        write_directory(case, tmp_path / place)
    before = set(load_file(tmp_path / "published" / "model.safetensors"))
    rewritten(tmp_path / "published", change)
    assert set(load_file(tmp_path / "published" / "model.safetensors")) != before
    jax.tree.map(np.testing.assert_array_equal, read(tmp_path / "published")[0], read(tmp_path / "today")[0])


def test_what_is_not_read_is_told_with_its_reason(tmp_path):
    write_directory(T5, tmp_path)
    rewritten(tmp_path, lambda t: t.update({EXTRA_BIAS: np.ones((8, 3), np.float32)}))
    assert read(tmp_path)[1] == {EXTRA_BIAS: "cross attention has no relative positions"}


def test_names_left_out_are_told_in_a_line_for_each_reason():
    masks = {f"h.{i}.attn.bias": "the causal mask" for i in range(12)}
    assert describe_left_out({**masks, "position_ids": "the numbers"}) == [
        "h.0.attn.bias, h.1.attn.bias, h.2.attn.bias, h.3.attn.bias and 8 more (the causal mask)",
        "position_ids (the numbers)",
    ]


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_other_floating_types_are_read(kind, tmp_path):
    write_directory(LLAMA, tmp_path)
    rewritten(tmp_path, lambda t: {name: value.astype(kind) for name, value in t.items()})
    stored = load_file(tmp_path / "model.safetensors")["model.norm.weight"]
    params, _ = read(tmp_path)
    np.testing.assert_array_equal(params["decoder"]["final_norm"]["scale"], stored.astype(np.float32))


@pytest.mark.parametrize(
    ("names", "prefix", "found"),
    [
        (["bert.embeddings", "bert.encoder"], "bert.", ""),
        (["bert.bert.embeddings", "bert.cls.bias"], "bert.", "bert."),
        (["module.bert.embeddings", "module.cls.bias"], "bert.", "module."),
        (["model.embed_tokens", "model.norm"], "model.", ""),
        (["model.model.norm", "model.lm_head.weight"], "model.", "model."),
        (["module.model.model.norm", "module.model.lm_head.weight"], "model.", "module.model."),
        (["model.norm", "extra"], "model.", ""),
        ([], "model.", ""),
    ],
)
def test_a_wrapper_stands_before_all_names(names, prefix, found):
    assert wrapper(names, prefix) == found


def test_two_spellings_of_one_tensor_must_be_equal(tmp_path):
    write_directory(BERT, tmp_path)
    weight = "bert.embeddings.LayerNorm.weight"
    gamma = weight.replace("weight", "gamma")
    rewritten(tmp_path, lambda t: t.update({gamma: t[weight].copy()}))
    read(tmp_path)
    rewritten(tmp_path, lambda t: t.update({gamma: t[weight] + 1}))
    refused(tmp_path, rf"{gamma} and {weight} are both {weight}, but differ")


@pytest.mark.parametrize(
    ("case", "tensor"),
    [(LLAMA, "model.layers.1.mlp.up_proj.weight"), (T5, "shared.weight"), (GPT, "transformer.h.0.attn.c_attn.bias")],
)
@pytest.mark.parametrize(("bad", "said"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_weights_that_are_not_finite_are_refused(case, tensor, bad, said, tmp_path):
    write_directory(case, tmp_path)

    def change(tensors):
        tensors[tensor].flat[3] = bad

    rewritten(tmp_path, change)
    refused(tmp_path, rf"tensor {tensor} has values that are {said}")


def test_a_double_too_large_for_float32_is_refused(tmp_path):
    write_directory(LLAMA, tmp_path)
    rewritten(tmp_path, lambda t: t.update({"model.norm.weight": np.full(32, 1e300)}))
    refused(tmp_path, r"tensor model.norm.weight has values that are infinite in float32")


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (T5_11, {"tie_word_embeddings": True, "scale_decoder_outputs": None}, "tie_word_embeddings is True: lm_head"),
        (UMT5, {"tie_word_embeddings": True}, "tie_word_embeddings is True: lm_head.weight exists and differs"),
        (LLAMA, {"tie_word_embeddings": True}, "embed_tokens.weight and lm_head.weight differ"),
        (BY_NAME["GPT-2 untied"], {"tie_word_embeddings": True}, "wte.weight and lm_head.weight differ"),
        (BY_NAME["BERT untied"], {"tie_word_embeddings": True}, "differ"),
        (TIED, {"tie_word_embeddings": False}, "lm_head.weight is missing"),
        (LLAMA, {"num_hidden_layers": 10_000}, r"10000 layers .*the weights have only \d+ tensors"),
        (T5, {"num_layers": 9_000, "num_decoder_layers": 2}, r"9000 layers .*the weights have only \d+ tensors"),
        (T5, {"num_decoder_layers": 1_000}, r"1000 layers .*decoder.*the weights have only \d+ tensors"),
        (BERT, {"num_hidden_layers": 10**9}, r"config.json: .*layers.*1000000000.*Nearest: 10000"),
        (GPT, {"n_layer": 1_000}, r"1000 layers"),
        (DISTILBERT, {"n_layers": 1_000}, r"1000 layers"),
        (ALBERT, {"num_hidden_groups": 1_000, "num_hidden_layers": 1_000}, r"1000 layers"),
        (LLAMA, {"num_hidden_layers": 2**40}, r"num_hidden_layers is 1099511627776: expected an integer from 1 to"),
        (LLAMA, {"num_hidden_layers": 0}, r"num_hidden_layers is 0: expected an integer from 1 to"),
        (LLAMA, {"num_hidden_layers": 2.5}, r"num_hidden_layers is 2.5: expected an integer"),
        (LLAMA, {"num_hidden_layers": "two"}, r"num_hidden_layers is 'two': expected a number"),
        (LLAMA, {"num_hidden_layers": 3}, r"model.layers.2.* missing from the weights"),
        (LLAMA, {"num_hidden_layers": 1}, r"the model has no parameter for model.layers.1"),
        (T5, {"d_kv": 0}, r"d_kv is 0: expected an integer"),
        (T5, {"d_model": 2**20}, r"shared.weight has shape 96x32; the configuration expects 96x1048576"),
        (T5, {"vocab_size": 2**24}, r"shared.weight has shape 96x32; the configuration expects 16777216x32"),
        (T5, {"num_heads": -3}, r"num_heads is -3"),
        (LLAMA, {"num_attention_heads": 0}, r"num_attention_heads is 0"),
        (LLAMA, {"num_key_value_heads": 0}, r"num_key_value_heads is 0"),
        (LLAMA, {"num_key_value_heads": 3}, r"config.json: .*3.* does not divide"),
        (LLAMA, {"head_dim": 0}, r"head_dim is 0"),
        (LLAMA, {"vocab_size": 97}, r"embed_tokens.weight has shape 96x32; the configuration expects 97x32"),
        (BERT, {"type_vocab_size": 0}, r"type_vocab_size is 0"),
        (ROBERTA, {"pad_token_id": -2}, r"pad_token_id is -2"),
        (LLAMA, {"tie_word_embeddings": "yes"}, r"tie_word_embeddings is 'yes': expected true or false"),
        (LLAMA, {"hidden_act": ["silu"]}, r"hidden_act is \['silu'\]: unknown activation"),
        (T5, {"dense_act_fn": "gelu"}, r"dense_act_fn is 'gelu': feed_forward_proj has another activation"),
        (T5, {"is_gated_act": True}, r"is_gated_act is True: feed_forward_proj contradicts it"),
        (LLAMA, {"adapters": {"a": 1}, "depth_scale": 2}, r"to ignore: --accept-option adapters depth_scale"),
        (LLAMA, {"quantization_config": {"bits": 4}}, r"unknown option quantization_config"),
    ],
)
def test_options_that_do_not_go_with_the_weights_are_refused(case, options, message, tmp_path):
    write_directory(case, tmp_path, **options)
    said = refused(tmp_path, message)
    assert str(tmp_path) in said


def test_mt5s_head_is_never_scaled_whatever_was_saved(tmp_path):
    write_directory(T5_11, tmp_path, model_type="mt5", tie_word_embeddings=True, scale_decoder_outputs=None)
    with opened(tmp_path, family_of) as source:
        assert not source.config.scaled_head
        assert not source.config.tied


PUBLISHED = {
    "gpt2-medium": (
        GPT,
        {
            "n_ctx": 24,
            "n_special": 0,
            "predict_special_tokens": True,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "_num_labels": 1,
            "gradient_checkpointing": False,
            "is_decoder": True,
            "pruned_heads": {},
        },
    ),
    "bert-base-chinese": (
        BERT,
        {
            "directionality": "bidi",
            "pooler_fc_size": 768,
            "pooler_num_attention_heads": 12,
            "pooler_num_fc_layers": 3,
            "pooler_size_per_head": 128,
            "pooler_type": "first_token_transform",
            "gradient_checkpointing": False,
            "position_embedding_type": "absolute",
            "finetuning_task": "mnli",
            "_name_or_path": "bert",
            "output_past": True,
        },
    ),
    "t5-small": (
        T5,
        {
            "n_positions": 512,
            "output_past": True,
            "initializer_factor": 1.0,
            "task_specific_params": {"summarization": {"num_beams": 4}},
            "dense_act_fn": None,
            "is_gated_act": None,
            "torch_dtype": "float16",
            "transformers_version": "4.26.0",
            "use_cache": True,
            "tie_encoder_decoder": False,
        },
    ),
    "llama": (
        LLAMA,
        {
            "pad_token_id": -1,
            "max_sequence_length": 2048,
            "pretraining_tp": 1,
            "rope_interleaved": False,
            "_flash_attn_2_enabled": True,
            "attn_implementation": "eager",
            "eos_token_id": [1, 2],
            "is_llama_config": True,
            "transformers.js_config": {"dtype": "q4"},
            "unsloth_version": "2024.9",
            "temperature": 0.6,
            "top_p": 0.9,
        },
    ),
    "albert-base-v2": (
        ALBERT,
        {
            "down_scale_factor": 1,
            "gap_size": 0,
            "layers_to_keep": [1],
            "net_structure_type": 0,
            "num_memory_blocks": 0,
            "classifier_dropout_prob": 0.1,
            "output_past": True,
        },
    ),
    "distilbert": (
        DISTILBERT,
        {
            "qa_dropout": 0.1,
            "seq_classif_dropout": 0.2,
            "sinusoidal_pos_embds": True,
            "tie_weights_": True,
            "max_length": 20,
        },
    ),
    "xlm-roberta": (
        ROBERTA,
        {"model_type": "xlm-roberta", "output_past": True, "num_beams": 5, "id2label": {"0": "a"}},
    ),
    "mistral": (MISTRAL, {"torch_dtype": "bfloat16", "use_cache": False, "sep_token_id": 1}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_options_as_published_change_nothing(name, tmp_path):
    case, options = PUBLISHED[name]
    write_directory(case, tmp_path / "today")
    write_directory(case, tmp_path / "published", **options)
    with opened(tmp_path / "published", family_of) as published, opened(tmp_path / "today", family_of) as today:
        assert published.config == today.config


def test_each_option_that_changes_nothing_has_one_reason():
    assert all(NEUTRAL.values())
    # What a family computes with is never among them but where that family reads it.
    for name in ("scale_attn_by_inverse_layer_idx", "rope_scaling", "hidden_act", "sliding_window", "is_decoder"):
        assert name not in NEUTRAL


def test_several_options_are_accepted_at_once_and_each_must_be_there(tmp_path):
    write_directory(LLAMA, tmp_path, depth_scale=2, flavour="odd")
    with opened(tmp_path, family_of, accepted=["depth_scale", "flavour"]):
        pass
    message = r"option 'flavor' \(--accept-option\) not found. Nearest: flavour"
    with pytest.raises(UserError, match=message), opened(tmp_path, family_of, accepted=["depth_scale", "flavor"]):
        pass


@contextlib.contextmanager
def _nothing():
    raise UserError("nothing is read")
    yield


@pytest.mark.parametrize(
    "given", [["--accept-option", "depth_scale", "flavour"], ["--accept-option=depth_scale", "--accept-option=flavour"]]
)
@pytest.mark.parametrize("command", [import_model, convert_check])
def test_the_commands_take_several_options_to_accept(command, given, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("t2t.export.huggingface.opened", lambda *_, accepted: seen.append(accepted) or _nothing())
    monkeypatch.setitem(sys.modules, "torch", MagicMock())
    monkeypatch.setitem(sys.modules, "transformers", MagicMock())
    where = ["--dir", str(tmp_path / "run")] if command is import_model else []
    with pytest.raises(UserError, match="nothing is read"):
        tyro.cli(command, args=[str(tmp_path), *where, *given])
    assert seen == [("depth_scale", "flavour")]
