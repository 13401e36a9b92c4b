"""Greedy decoding, sampling, beam search, scoring and mask filling, compiled with JAX. Does not need TensorFlow."""

from t2t.decode.answer_text import (
    Label,
    LabelSet,
    Numbers,
    Span,
    best_spans,
    embed_texts,
    first_logits,
    label_set,
    label_texts,
    span_texts,
    tag_texts,
    target_text,
    value_texts,
    words_between,
)
from t2t.decode.config import Beam, Decoding, Greedy, Sampling
from t2t.decode.generation import Generated, generate, prompt
from t2t.decode.many import Continuation, MaskFill, fill_many, generate_many, score_many
from t2t.decode.placement import fetch, mesh_of, place
from t2t.decode.rows import TooLong
from t2t.decode.scoring import Filled, TokenScores, fill_mask, score, token_scores
from t2t.decode.texts import MASK, Candidate, Output, fill_texts, generate_prompts, generate_texts, score_texts
from t2t.nn.pooling import Pooling

__all__ = [
    "MASK",
    "Beam",
    "Candidate",
    "Continuation",
    "Decoding",
    "Filled",
    "Generated",
    "Greedy",
    "Label",
    "LabelSet",
    "MaskFill",
    "Numbers",
    "Output",
    "Pooling",
    "Sampling",
    "Span",
    "TokenScores",
    "TooLong",
    "best_spans",
    "embed_texts",
    "fetch",
    "fill_many",
    "fill_mask",
    "fill_texts",
    "first_logits",
    "generate",
    "generate_many",
    "generate_prompts",
    "generate_texts",
    "label_set",
    "label_texts",
    "mesh_of",
    "place",
    "prompt",
    "score",
    "score_many",
    "score_texts",
    "span_texts",
    "tag_texts",
    "target_text",
    "token_scores",
    "value_texts",
    "words_between",
]
