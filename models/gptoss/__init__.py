"""gpt-oss (OpenAI 2025, https://arxiv.org/abs/2508.10925): decoders with attention sinks and experts.

Every second layer has a window of 128 tokens. Queries rotate by "yarn" positions. The experts have biases, and bounds on their two branches.
"""

from t2t.models.gptoss.presets import PRESETS, gpt_oss

__all__ = ["PRESETS", "gpt_oss"]
