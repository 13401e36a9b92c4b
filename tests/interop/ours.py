"""The inputs of the cases as t2t batches, and the outputs of t2t models on them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2t.decode import Beam, Greedy, generate
from t2t.nn.model import Model
from t2t.objectives import CrossEntropy
from t2t.types import Batch, Params, Tokens
from tests.interop.case import DETECTOR, OF_TEXT, PROBLEMS, Case

NEW = 8
"""Number of tokens to generate."""
EOS = 4


def tokens(ids: np.ndarray, mask: np.ndarray | None = None, types: np.ndarray | None = None) -> Tokens:
    """Return rows with padding at the end."""
    segments = np.ones_like(ids) if mask is None else mask
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    made = (x if x is None else x.astype(np.int32) for x in (ids, positions, segments, types))
    return Tokens(*made)  # type: ignore[arg-type]


def batch(case: Case, given: dict[str, np.ndarray]) -> Batch:
    """Return a batch with the same loss as in `transformers`: encoders predict their own ids, decoders the next ids."""
    ids, mask = given["ids"], given["mask"]
    if case.kind == "encoder":
        types = given["types"] if case.family in ("BERT", "ALBERT", "ELECTRA", "DeBERTa") else None
        targets = ids if case.output == "tokens" else ids % case.labels
        # Labels are predicted only at the first token.
        places = mask * (np.arange(ids.shape[1]) == 0) if case.output in OF_TEXT else mask
        extra = {"values": values(case, given)[:, None]} if case.output in PROBLEMS.values() else {}
        return Batch(
            encoder=tokens(ids, mask, types),
            decoder=None,
            targets=targets.astype(np.int32),
            weights=places.astype(np.float32),
            extra=extra,
        )
    if case.kind == "decoder":
        behind = np.concatenate([ids[:, 1:], np.zeros_like(ids[:, :1])], axis=1)
        seen = np.concatenate([mask[:, 1:], np.zeros_like(mask[:, :1])], axis=1)
        return Batch(
            encoder=None, decoder=tokens(ids, mask), targets=behind.astype(np.int32), weights=seen.astype(np.float32)
        )
    targets = given["targets"]
    shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
    return Batch(
        encoder=tokens(ids, mask),
        decoder=tokens(shifted),
        targets=targets.astype(np.int32),
        weights=np.ones(targets.shape, np.float32),
    )


def values(case: Case, given: dict[str, np.ndarray]) -> np.ndarray:
    """Return the targets of several labels (0 or 1) or numbers (from 0 to 1) of each row: float32 [rows, labels]."""
    ids = given["ids"][:, : case.labels]
    return (ids % 2 if case.output == "labels" else ids / 96).astype(np.float32)


def real(case: Case, given: dict[str, np.ndarray], logits: np.ndarray) -> np.ndarray:
    """Return the logits at positions without padding."""
    if case.output in OF_TEXT:
        return logits
    return logits.reshape(-1, logits.shape[-1]) if case.kind == "encoder_decoder" else logits[given["mask"] == 1]


def logits(case: Case, model: Model, params: Params, given: dict[str, np.ndarray], jit: Any = jax.jit) -> np.ndarray:
    """Return the logits for the inputs of a case in the shape of transformers: per text for labels, two per token for spans."""
    own = batch(case, given)
    if case.output == "span":
        return np.asarray(jit(lambda params, own: model.head(params, model.hidden(params, own)))(params, own))
    scores = np.asarray(jit(model.logits)(params, own))
    if case.output == DETECTOR:
        return scores[..., 1:] - scores[..., :1]
    return scores[:, 0] if case.output in OF_TEXT else scores


def loss(model: Model, params: Params, batch: Batch) -> jax.Array:
    """Return the mean loss of the predictions: cross-entropy, or that of the objective for several labels, numbers or experts."""
    experts = any(path[-1].key == "router" for path, _ in jax.tree_util.tree_leaves_with_path(params))
    if batch.extra or experts:
        sums = CrossEntropy().loss(model, params, batch)
        return sums.objective / sums.weight
    scores = jax.nn.log_softmax(model.logits(params, batch))
    picked = jnp.take_along_axis(scores, jnp.asarray(batch.targets)[..., None], axis=-1)[..., 0]
    return -jnp.sum(picked * batch.weights) / jnp.sum(batch.weights)


def generated(case: Case, model: Model, params: Params, given: dict[str, np.ndarray], beams: int) -> np.ndarray:
    """Return the generated ids of each row, with 0 after EOS. For beam search, return the hypothesis with the highest total log-probability.

    (`Beam` itself ranks finished hypotheses before those that are cut off at the length limit.)
    """
    rows = len(given["ids"])
    if rows > 1 and case.options.get("rope_parameters", {}).get("rope_type") in ("dynamic", "longrope"):
        # These positions depend on the longest row of a batch with its padding, and transformers decodes one row at a time.
        lengths = given["mask"].sum(axis=1)
        alone = [{name: given[name][row : row + 1, : lengths[row]] for name in ("ids", "mask")} for row in range(rows)]
        return np.concatenate([generated(case, model, params, one, beams) for one in alone])
    own = batch(case, given)
    if case.kind == "encoder_decoder":
        start = np.zeros((len(given["ids"]), 1), int)
        own = dataclasses.replace(own, decoder=tokens(start), targets=start, weights=np.ones(start.shape))
    how = Greedy() if beams == 1 else Beam(size=beams, length_penalty=0.0, return_n=beams)
    made = generate(model, params, own, how, length=NEW, eos_id=EOS, pad_id=None)
    best = np.argmax(np.asarray(made.scores), axis=1)
    return np.asarray(made.ids)[np.arange(len(best)), best]
