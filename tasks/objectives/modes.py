"""UL2's paradigm tokens: a mode before the inputs names the kind of denoising."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from t2t.data.vocabularies import from_seqio
from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, limit, require
from t2t.tasks.objectives.streams import Example

Objective = Callable[..., tf.data.Dataset]


def with_mode(objective: Objective, mode: str) -> Objective:
    """Return the objective with the ids of `mode` prepended to its inputs, which become shorter by the same number.

    UL2's mode switching (Tay et al. 2022, https://arxiv.org/abs/2205.05131, section 3.1.3): [R], [X] and [S] in the paper, "[NLU]",
    "[NLG]" and "[S2S]" in the released models. The vocabulary encodes the mode, as one token if it has such a token. At inference, a text
    for such a model must also start with its mode.

    Args:
      objective: an objective that fills `inputs`, for an encoder-decoder or a decoder.
      mode: text of the mode.

    Raises:
      UserError, from the returned objective: a mode without ids or with an unknown id, no space for it, a task without `inputs`, or an
        error of the objective.
    """
    return functools.partial(_with_mode, objective=objective, mode=mode)


def _with_mode(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    objective: Objective,
    mode: str,
) -> tf.data.Dataset:
    require("with_mode", output_features, "inputs", "targets")
    if "weights" in output_features:
        raise UserError(
            f"mode {mode!r}: an encoder's task cannot have a mode, because its inputs and targets have equal length."
        )
    feature = output_features["inputs"]
    vocabulary = from_seqio(feature.vocabulary)
    ids = vocabulary.encode(mode)
    if not ids or vocabulary.unk_id in ids:
        raise UserError(
            f"mode {mode!r}: {vocabulary} cannot encode it; use another mode, or train a vocabulary with this one."
        )
    inputs_length = limit(sequence_length, "inputs")
    if inputs_length is not None:
        if inputs_length <= len(ids):
            raise UserError(
                f"inputs_length={inputs_length} is too short for mode {mode!r}, which is {len(ids)} tokens."
            )
        sequence_length = {**(sequence_length or {}), "inputs": inputs_length - len(ids)}
    head = tf.constant(ids, feature.dtype)

    def prepend(example: Example) -> Example:
        return {**example, "inputs": tf.concat([head, example["inputs"]], 0)}

    denoised = objective(dataset, sequence_length=sequence_length, output_features=output_features)
    return denoised.map(prepend, num_parallel_calls=tf.data.AUTOTUNE)
