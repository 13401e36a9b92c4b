"""Parameters of published mixtures of experts: the counts of the presets are those by hand from the released config.json files."""

from dataclasses import dataclass

import pytest

from t2t.models import active_count, count, preset


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of parameters of a decoder. Layers are numbered together: there are `layers` of them, `dense` of which have no experts.

    mixers: of the mixers and norms of all layers.
    mlp:    of the feed-forward layer of a layer without experts.
    always: of what every token uses in a layer with experts: router and shared expert.
    """

    vocabulary: int
    width: int
    layers: int
    mixers: int
    always: int
    expert: int
    experts: int
    chosen: int
    dense: int = 0
    mlp: int = 0

    def of(self, experts):
        rest = 2 * self.vocabulary * self.width + self.width + self.mixers + self.dense * self.mlp
        return rest + (self.layers - self.dense) * (self.always + experts * self.expert)


def grouped(width, heads, kv, size):
    """Return the kernels of attention with grouped queries."""
    return 2 * width * heads * size + 2 * width * kv * size


def gpt_oss(layers, experts):
    # openai/gpt-oss-120b, original/config.json: hidden_size and intermediate_size 2880, 64 heads of 64, 8 of keys, vocab_size 201088, experts_per_token 4.
    # All products have biases, and each head has a sink.
    attention = grouped(2880, 64, 8, 64) + 2 * 64 * 8 + 64 * 64 + 2880 + 64
    return Counts(
        vocabulary=201_088,
        width=2880,
        layers=layers,
        mixers=layers * (attention + 2 * 2880),
        always=2880 * experts + experts,
        expert=3 * 2880 * 2880 + 3 * 2880,
        experts=experts,
        chosen=4,
    )


# deepseek-ai/DeepSeek-V3, config.json: hidden_size 7168, 128 heads, q_lora_rank 1536, kv_lora_rank 512, qk_nope_head_dim 128, qk_rope_head_dim 64,
# v_head_dim 128, first_k_dense_replace 3, intermediate_size 18432, moe_intermediate_size 2048, n_routed_experts 256, n_shared_experts 1, vocab_size 129280.
LATENT = 7168 * 1536 + 1536 + 1536 * 128 * (128 + 64) + 7168 * (512 + 64) + 512 + 512 * 128 * (128 + 128)
LATENT += 128 * 128 * 7168

# Qwen/Qwen3-Next-80B-A3B, config.json: hidden_size 2048, 48 layers, 16 heads of 256 with 2 of keys, in every fourth layer; elsewhere 16 heads of keys and
# 32 of values of 128 each, convolutions of 4; moe_intermediate_size and shared_expert_intermediate_size 512, num_experts 512, vocab_size 151936.
GATED = grouped(2048, 16, 2, 256) + 2048 * 16 * 256 + 2 * 256  # the gate of the output is as large as the queries
DELTA = 2048 * (2 * 2048 + 2 * 4096) + 2048 * 2 * 32 + 4 * (2 * 2048 + 4096) + 2 * 32 + 128 + 4096 * 2048

PUBLISHED = {
    # mistralai/Mixtral-8x7B-v0.1, config.json: hidden_size 4096, intermediate_size 14336, 32 layers, 32 heads, 8 of keys, vocab_size 32000.
    "mixtral:8x7b": Counts(
        vocabulary=32_000,
        width=4096,
        layers=32,
        mixers=32 * (grouped(4096, 32, 8, 128) + 2 * 4096),
        always=4096 * 8,
        expert=3 * 4096 * 14_336,
        experts=8,
        chosen=2,
    ),
    # Qwen/Qwen3-30B-A3B, config.json: hidden_size 2048, moe_intermediate_size 768, 48 layers, 32 heads of 128, 4 of keys, vocab_size 151936.
    "qwen:3-30b-a3b": Counts(
        vocabulary=151_936,
        width=2048,
        layers=48,
        mixers=48 * (grouped(2048, 32, 4, 128) + 2 * 128 + 2 * 2048),
        always=2048 * 128,
        expert=3 * 2048 * 768,
        experts=128,
        chosen=8,
    ),
    "gptoss:20b": gpt_oss(24, 32),
    "gptoss:120b": gpt_oss(36, 128),
    "deepseek:v3": Counts(
        vocabulary=129_280,
        width=7168,
        layers=61,
        mixers=61 * (LATENT + 2 * 7168),
        dense=3,
        mlp=3 * 7168 * 18_432,
        always=7168 * 256 + 256 + 3 * 7168 * 2048,
        expert=3 * 7168 * 2048,
        experts=256,
        chosen=8,
    ),
    "qwen:next-80b-a3b": Counts(
        vocabulary=151_936,
        width=2048,
        layers=48,
        mixers=12 * GATED + 36 * DELTA + 48 * 2 * 2048,
        always=2048 * 512 + 3 * 2048 * 512 + 2048,
        expert=3 * 2048 * 512,
        experts=512,
        chosen=10,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_total_and_active_parameters_are_those_by_hand(name):
    hand, config = PUBLISHED[name], preset(name)
    assert (count(config), active_count(config)) == (hand.of(hand.experts), hand.of(hand.chosen))


# google/switch-base-N, config.json: d_model 768, d_ff 3072, num_sparse_encoder_layers and num_sparse_decoder_layers 6; google/switch-large-128: 1024, 4096, 12.
@pytest.mark.parametrize(
    ("name", "dense", "experts", "sparse", "width", "inner"),
    [
        *((f"switch:base-{n}", "t5:1.0-base", n, 12, 768, 3072) for n in (8, 16, 32, 64, 128, 256)),
        ("switch:large-128", "t5:1.0-large", 128, 24, 1024, 4096),
    ],
)
def test_a_token_of_a_switch_transformer_uses_the_parameters_of_a_t5_and_the_routers(
    name, dense, experts, sparse, width, inner
):
    config, active = preset(name), count(preset(dense)) + sparse * width * experts
    assert active_count(config) == active
    assert count(config) == active + sparse * (experts - 1) * 2 * width * inner
