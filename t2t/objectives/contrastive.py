"""Contrastive training of vectors of texts, with the other examples of the batch as negatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.data.converters import FeatureConverter
from t2t.data.texts import TextsConverter
from t2t.limits import FewOrZero, Range
from t2t.losses import LossSums, cross_entropy
from t2t.nn.aux import with_aux
from t2t.nn.model import Capability, Model, ModelConfig
from t2t.nn.pooling import unit
from t2t.objectives.cross_entropy import CrossEntropy
from t2t.objectives.objective import Objective
from t2t.sharding import constrain
from t2t.types import Array as AnyArray
from t2t.types import Batch, Extra, Params

TEXTS = Extra(name="texts", dtype="int32")
"""The number of texts of an example. A row has one example."""


@dataclass(frozen=True, kw_only=True)
class Contrastive(Objective):
    """Cross-entropy of a query's positive text among all positives and hard negatives of the batch (van den Oord et al. 2018, InfoNCE; Karpukhin et al. 2020).

    The logits are cosines of the vectors divided by the temperature. The model's options `vector_pooling`, ... say how the vector of a text is computed. A row
    has the texts of one example: the query, its positive and up to `negatives` hard negatives (`t2t.tasks.add_retrieval`). The batch is the global
    batch, over all devices and hosts, so microbatches are refused.

    Args:
        temperature: divisor of the cosines. SimCSE (Gao et al. 2021) and sentence-transformers use 0.05.
        negatives: maximum number of hard negatives of a query.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset(
        {"embed", "predict"}
    )  # the vectors of an ELECTRA would be its generator's
    extras: ClassVar[tuple[Extra, ...]] = (TEXTS,)
    whole_batch: ClassVar[bool] = True
    temperature: Annotated[float, Range(1e-4, 100.0, typical=0.05)] = 0.05
    negatives: FewOrZero = 0

    def loss(self, model: Model, params: Params, batch: Batch, dropout_key: jax.Array | None = None) -> LossSums:
        """Return the sums over the queries. `correct` counts those whose positive is the most similar text of the batch."""
        assert batch.encoder is not None, "an encoder needs batch.encoder"
        hidden, aux = model.forward(params, batch, dropout_key=dropout_key)
        vectors = unit(model.vectors(params, hidden, batch.encoder.segments, slots=2 + self.negatives))
        weights = jnp.sum(jnp.asarray(batch.weights), axis=1)
        return with_aux(contrastive_sums(vectors, batch.extra[TEXTS.name][:, 0], weights, self.temperature), aux)

    def converter(self, rows: FeatureConverter) -> FeatureConverter:
        """Return the converter, which refuses an example with more texts than the loss compares."""
        rows = super().converter(rows)
        return replace(rows, most=2 + self.negatives) if isinstance(rows, TextsConverter) else rows

    def check(self, model: ModelConfig) -> None:
        """Raise UserError also if attention cannot separate the texts of a row."""
        super().check(model)
        model.check_run(packing=True, context=1)

    def places_at_once(self, model: ModelConfig, places: float) -> float:
        """Return 0: there are no logits of positions."""
        return 0.0


def contrastive_sums(
    vectors: Float[Array, "B S D"],
    counts: Int[AnyArray, "B"],
    weights: Float[AnyArray, "B"],
    temperature: float,
) -> LossSums:
    """Return the sums of the cross-entropy of each query's positive.

    vectors: unit vectors of the texts: the query, its positive and its hard negatives.
    counts:  number of texts of each example, 0 for padding. The other vectors are ignored.
    weights: weight of each query.
    """
    rows, slots, size = vectors.shape
    texts = vectors[:, 1:].reshape(rows * (slots - 1), size)
    texts = constrain(texts, (None, None))  # each device compares its own queries with the texts of all devices
    # Accelerators would round the factors of a float32 product.
    cosines = jnp.einsum("bd,nd->bn", vectors[:, 0], texts, precision=jax.lax.Precision.HIGHEST)
    real = (jnp.arange(1, slots)[None] < jnp.asarray(counts)[:, None]).reshape(-1)
    logits = jnp.where(real[None], cosines / temperature, -1e30)
    return cross_entropy(logits, jnp.arange(rows) * (slots - 1), weights, CrossEntropy())
