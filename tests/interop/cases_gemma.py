"""Small configurations of Gemma 2, Gemma 3, T5Gemma and T5Gemma 2."""

from __future__ import annotations

from typing import Any

from tests.interop.case import LLAMA, VOCAB, Case, case

# Only the attention of the class itself bounds its logits.
_GEMMA = {**LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4, "attn_implementation": "eager"}


def _gemma2(name: str, **options: Any) -> Case:
    return case("Gemma 2", name, "Gemma2Config", "Gemma2ForCausalLM", {**_GEMMA, "num_hidden_layers": 3}, **options)


def _gemma3(name: str, **options: Any) -> Case:
    sizes = {**_GEMMA, "num_hidden_layers": 7}
    return case("Gemma 3", name, "Gemma3TextConfig", "Gemma3ForCausalLM", sizes, **options)


def _t5gemma(name: str, encoder: dict[str, Any], decoder: dict[str, Any], **options: Any) -> Case:
    # The decoder starts from id 0, like T5 in the comparison. transformers hides padding in a decoder's input, so padding is another id.
    # A sharper softmax amplifies rounding errors in training.
    both = {**_GEMMA, "num_hidden_layers": 3, "query_pre_attn_scalar": 64, "bos_token_id": 0, "pad_token_id": 3}
    del both["attn_implementation"]
    sides = {"encoder": {**both, **encoder}, "decoder": {**both, **decoder}}
    options |= {**sides, "vocab_size": VOCAB, "attn_implementation": "eager"}
    return case("T5Gemma", name, "T5GemmaConfig", "T5GemmaForConditionalGeneration", {}, **options)


def _t5gemma2(name: str, encoder: dict[str, Any], decoder: dict[str, Any], **options: Any) -> Case:
    # The start of the decoder and padding are those of T5Gemma.
    both = {**_GEMMA, "num_hidden_layers": 7, "query_pre_attn_scalar": 64, "bos_token_id": 0, "pad_token_id": 3}
    del both["attn_implementation"]
    images = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    images |= {"image_size": 4, "patch_size": 2, "vision_use_head": False}
    text = {**both, **encoder}
    sides = {
        "encoder": {"text_config": text, "vision_config": images, "mm_tokens_per_image": 4},
        "decoder": {**both, **decoder},
    }
    options |= {**sides, "vocab_size": VOCAB, "attn_implementation": "eager"}
    return case("T5Gemma 2", name, "T5Gemma2Config", "T5Gemma2ForConditionalGeneration", {}, **options)


_LINEAR = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


CASES: tuple[Case, ...] = (
    _gemma2("as published"),
    _gemma2(
        "27B: queries' scale, tight bounds",
        query_pre_attn_scalar=12,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    _gemma2(
        "untied, biases, no bounds, other layers",
        tie_word_embeddings=False,
        attention_bias=True,
        # Without bounds, a sharper softmax amplifies rounding errors in training.
        query_pre_attn_scalar=64,
        hidden_activation="silu",
        rms_norm_eps=1e-2,
        num_hidden_layers=4,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    ),
    _gemma2("windows everywhere", layer_types=["sliding_attention"] * 3),
    _t5gemma("as published", {}, {}),
    _t5gemma(
        "untied, wider encoder, other options",
        {
            "hidden_size": 48,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "num_hidden_layers": 2,
            "sliding_window": 2,
        },
        {
            "attention_bias": True,
            "rms_norm_eps": 1e-2,
            "query_pre_attn_scalar": 48,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        },
        tie_word_embeddings=False,
    ),
    _t5gemma2("as published", {"rope_parameters": _LINEAR}, {"rope_parameters": _LINEAR}),
    _t5gemma2(
        "deeper encoder, odd window, other options",
        {
            "num_hidden_layers": 3,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        {
            "num_hidden_layers": 2,
            "sliding_window": 3,
            "num_key_value_heads": 4,
            "attention_bias": True,
            "rms_norm_eps": 1e-2,
            "final_logit_softcapping": 4.0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    _gemma3("1B as published"),
    _gemma3(
        "4B: linear positions",
        query_pre_attn_scalar=12,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    _gemma3(
        "untied, final bound, every third layer",
        tie_word_embeddings=False,
        final_logit_softcapping=4.0,
        num_hidden_layers=3,
        sliding_window_pattern=3,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    ),
)
