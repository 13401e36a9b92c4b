"""Expected values of each scaling of rotary positions, from `transformers` 5.23.

To update them, run `python -m tests.nn.golden_rotary` in the repository root.
"""

import json
from pathlib import Path

FILE = Path(__file__).parent / "golden_rotary.json"
HEAD = 16
COMMON = {"rope_theta": 10_000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.5 * i for i in range(8)],
    "original_max_position_embeddings": 64,
    "factor": 4.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES = {
    "default": ({"rope_type": "default"}, None),
    "default, part": ({"rope_type": "default", "partial_rotary_factor": 0.5}, None),
    "linear": ({"rope_type": "linear", "factor": 4.0}, None),
    "dynamic, short": ({"rope_type": "dynamic", "factor": 4.0}, 50),
    "dynamic, long": ({"rope_type": "dynamic", "factor": 4.0}, 200),
    "dynamic, part": ({"rope_type": "dynamic", "factor": 4.0, "partial_rotary_factor": 0.5}, 200),
    "yarn": (YARN, None),
    "yarn, part": ({**YARN, "partial_rotary_factor": 0.5}, None),
    "yarn, untruncated": ({**YARN, "truncate": False, "beta_fast": 16.0, "beta_slow": 2.0}, None),
    "yarn, given factor": ({**YARN, "attention_factor": 0.7}, None),
    "longrope, short": (LONG, 60),
    "longrope, long": (LONG, 65),
    "llama3": (LLAMA3, None),
    "proportional": ({"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5}, None),
}
"""rope_parameters and the length of the text, by name."""


def main() -> None:
    """Write the inverse frequencies and attention factors."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.phi.modeling_phi import PhiRotaryEmbedding

    found = {}
    for name, (given, length) in CASES.items():
        config = LlamaConfig(
            hidden_size=2 * HEAD,
            num_attention_heads=2,
            head_dim=HEAD,
            max_position_embeddings=64,
            rope_parameters={**COMMON, **given},
        )
        kind = given["rope_type"]
        if kind == "default":
            inverse, factor = PhiRotaryEmbedding.compute_default_rope_parameters(config)
        else:
            inverse, factor = ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=length)
        found[name] = {"frequencies": [float(x) for x in inverse], "factor": float(factor)}
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
