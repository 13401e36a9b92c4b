"""Greedy decoding, sampling, beam search, scoring and fill-mask, compiled and without TensorFlow."""

from t2t.decode.config import Beam, Decoding, Greedy, Sampling
from t2t.decode.generation import Generated, generate, prompt
from t2t.decode.scoring import Filled, TokenScores, fill_mask, score, token_scores

__all__ = [
    "Beam",
    "Decoding",
    "Filled",
    "Generated",
    "Greedy",
    "Sampling",
    "TokenScores",
    "fill_mask",
    "generate",
    "prompt",
    "score",
    "token_scores",
]
