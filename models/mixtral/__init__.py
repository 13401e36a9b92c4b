"""Mixtral (Jiang et al. 2024, https://arxiv.org/abs/2401.04088): decoders like Mistral whose feed-forward layers are mixtures of eight experts."""

from t2t.models.mixtral.presets import PRESETS, mixtral

__all__ = ["PRESETS", "mixtral"]
