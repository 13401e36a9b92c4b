"""SeqIO features of text and encoder tasks, and checks that objectives make on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from t2t.data.answers import TEXTS, Labels, Of, Places, Texts, Values
from t2t.data.values import VALUES_FEATURE
from t2t.data.vocabularies import of_targets, to_seqio
from t2t.errors import UserError
from t2t.nn.capabilities import Output
from t2t.vocabularies import Bytes, Vocabulary

OutputFeatures = Mapping[str, seqio.Feature]
Lengths = Mapping[str, int | None] | None


def text_features(
    vocabulary: Vocabulary | seqio.Vocabulary, *, inputs: bool = True, continued: bool = False
) -> dict[str, seqio.Feature]:
    """Return features `inputs` (unless `inputs=False`) and `targets`, both with EOS.

    Args:
      vocabulary: a t2t or SeqIO vocabulary.
      inputs: whether to include `inputs`.
      continued: no EOS after the inputs, because the targets continue their text. This matches language models that were trained on
        whole texts.
    """
    own = seqio_vocabulary(vocabulary)
    targets = {"targets": seqio.Feature(of_targets(own), add_eos=True)}
    return {"inputs": seqio.Feature(own, add_eos=not continued), **targets} if inputs else targets


def encoder_features(vocabulary: Vocabulary | seqio.Vocabulary, *, types: bool = False) -> dict[str, seqio.Feature]:
    """Return features `inputs`, `targets` and `weights` (int32: weight of the target in the loss, 0 for none).

    Args:
      vocabulary: a t2t or SeqIO vocabulary.
      types: whether to include `types` (int32): 0 at tokens of the first text, 1 at tokens of the second.
    """
    flags = seqio.Feature(seqio.PassThroughVocabulary(size=2), add_eos=False)
    return {**text_features(vocabulary), "weights": flags} | ({"types": flags} if types else {})


def label_features(
    vocabulary: Vocabulary | seqio.Vocabulary, *, labels: Sequence[str], of: Of, types: bool = False
) -> dict[str, seqio.Feature]:
    """Return an encoder's features whose `targets` are classes.

    Args:
      vocabulary: a t2t or SeqIO vocabulary.
      labels: texts of the classes, in the order of their ids.
      of: "text" if each example has a class, "word" if each of its words has one.
      types: see `encoder_features`.
    """
    targets = seqio.Feature(Labels(labels, of=of), add_eos=False)
    return {**encoder_features(vocabulary, types=types), "targets": targets}


def value_features(
    vocabulary: Vocabulary | seqio.Vocabulary, *, labels: Sequence[str], output: Output, types: bool = False
) -> dict[str, seqio.Feature]:
    """Return an encoder's features with several numbers for each text in `values` (float32 [K]). The ids of `targets` have no meaning.

    Args:
      vocabulary: a t2t or SeqIO vocabulary.
      labels: names of the labels or numbers, in order. A single number needs none.
      output: "labels" (1 for a label that the text has, else 0) or "numbers".
      types: see `encoder_features`.
    """
    targets = seqio.Feature(Values(labels, output=output), add_eos=False)
    values = seqio.Feature(seqio.PassThroughVocabulary(size=1), add_eos=False, dtype=tf.float32)
    return {**encoder_features(vocabulary, types=types), "targets": targets, VALUES_FEATURE: values}


def span_features(vocabulary: Vocabulary | seqio.Vocabulary, *, types: bool = False) -> dict[str, seqio.Feature]:
    """Return an encoder's features whose `targets` are token positions in the example."""
    return {**encoder_features(vocabulary, types=types), "targets": seqio.Feature(Places(), add_eos=False)}


def texts_features(vocabulary: Vocabulary | seqio.Vocabulary) -> dict[str, seqio.Feature]:
    """Return an encoder's features for examples of several texts: `targets` are numbers of texts, and `texts` is how many there are."""
    count = seqio.Feature(seqio.PassThroughVocabulary(size=2**31 - 1), add_eos=False, rank=0)
    return {**encoder_features(vocabulary), "targets": seqio.Feature(Texts(), add_eos=False), TEXTS: count}


def seqio_vocabulary(vocabulary: Vocabulary | seqio.Vocabulary | None) -> seqio.Vocabulary:
    """Return the vocabulary for SeqIO. Default: bytes with 100 extra ids."""
    return to_seqio(vocabulary or Bytes()) if isinstance(vocabulary, Vocabulary | None) else vocabulary


def require(objective: str, output_features: OutputFeatures, *names: str) -> None:
    """Raise UserError if a task lacks a feature that its objective fills."""
    missing = [name for name in names if name not in output_features]
    if missing:
        remedy = f"{'encoder' if 'weights' in names else 'text'}_features" + (
            ", types=True" if "types" in names else ""
        )
        raise UserError(
            f"{objective} fills the features {', '.join(names)}; the task has only {', '.join(output_features)}"
            f" (missing: {', '.join(missing)}): use t2t.tasks.objectives.{remedy}."
        )


def limit(sequence_length: Lengths, name: str) -> int | None:
    """Return the maximum length of a feature in tokens, None for unlimited."""
    return None if sequence_length is None else sequence_length.get(name)


def end(feature: seqio.Feature) -> tf.Tensor:
    """Return the end of the feature: EOS (shape [1]) or nothing (shape [0])."""
    return tf.constant([feature.vocabulary.eos_id] if feature.add_eos else [], feature.dtype)
