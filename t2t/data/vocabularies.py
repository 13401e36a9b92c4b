"""Convert vocabularies to and from SeqIO, and derive tasks with another vocabulary."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t2t.config import fingerprint
from t2t.errors import UserError, nearest
from t2t.vocabularies import Bytes, Characters, Marian, SentencePiece, Tokenizer, Vocabulary, WordPiece

_DERIVED = re.compile(r":(bytes|characters|sentencepiece|wordpiece|tokenizer|marian)_[0-9a-f]{12}$")


_ENDS = "t2t_ends"
_FORCED = "t2t_forced"


class TokenizerVocabulary(seqio.Vocabulary):
    """A SeqIO vocabulary that wraps a Characters, WordPiece, Tokenizer or Marian of `t2t.vocabularies`. The ids are the same in TensorFlow graphs as in Python."""

    def __init__(self, vocabulary: Characters | WordPiece | Tokenizer | Marian) -> None:
        super().__init__(extra_ids=vocabulary.extra_ids)
        self.wrapped = vocabulary

    @property
    def bos_id(self) -> int:
        """The id of [CLS] or of the start token."""
        return self.wrapped.bos_id

    @property
    def eos_id(self) -> int:
        """The id of [SEP] or of the end token."""
        return self.wrapped.eos_id

    @property
    def unk_id(self) -> int:
        """The id of the unknown token."""
        return self.wrapped.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self.wrapped.size - self.wrapped.extra_ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids up to the first EOS. Sentinels become `<extra_id_i>`."""
        return self.wrapped.decode(np.asarray(ids).tolist())

    def _encode(self, s: str | bytes) -> Sequence[int]:
        return self.wrapped.encode(s.decode("utf-8") if isinstance(s, bytes) else s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.wrapped.decode(ids)

    @tf.autograph.experimental.do_not_convert
    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(texts: Any) -> tuple[np.ndarray, np.ndarray]:
            rows = [self._encode(text) for text in np.ravel(np.asarray(texts, object))]
            return np.fromiter(itertools.chain(*rows), np.int32), np.array([len(row) for row in rows], np.int64)

        if s.shape.rank not in (0, 1):
            raise ValueError(f"text of shape {s.shape}: a tokenizer encodes a string or a vector of strings")
        # stateful=False, because TensorFlow cannot save an iterator with stateful functions.
        ids, lengths = tf.numpy_function(encode, [s], [tf.int32, tf.int64], stateful=False)
        ids.set_shape([None])
        lengths.set_shape([None])
        return ids if s.shape.rank == 0 else tf.RaggedTensor.from_row_lengths(ids, lengths)

    @tf.autograph.experimental.do_not_convert
    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> np.ndarray:
            texts = [self.wrapped.decode(row).encode("utf-8") for row in rows.reshape(-1, rows.shape[-1])]
            return np.array(texts, dtype=object).reshape(rows.shape[:-1])

        text = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        text.set_shape(ids.shape[:-1])
        return text

    def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the texts of the ids along the last axis."""
        return self._decode_tf(tf.convert_to_tensor(ids))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenizerVocabulary) and self.wrapped == other.wrapped

    def __hash__(self) -> int:
        return hash(self.wrapped)

    def __str__(self) -> str:
        return str(self.wrapped)


@functools.lru_cache(maxsize=64)
def to_seqio(vocabulary: Vocabulary) -> seqio.Vocabulary:
    """Return the SeqIO vocabulary with the same ids.

    Raises:
      UserError: the vocabulary has no counterpart in SeqIO.
    """
    if isinstance(vocabulary, Bytes):
        return _with_ends(seqio.ByteVocabulary(extra_ids=vocabulary.extra_ids), vocabulary.ends, vocabulary.forced)
    if isinstance(vocabulary, SentencePiece):
        _ = vocabulary.size  # raises a one-line error if the file is unreadable or unsuitable
        return _with_ends(
            seqio.SentencePieceVocabulary(vocabulary.path, extra_ids=vocabulary.extra_ids),
            vocabulary.ends,
            vocabulary.forced,
        )
    if isinstance(vocabulary, Characters | WordPiece | Tokenizer | Marian):
        _ = vocabulary.size
        return TokenizerVocabulary(vocabulary)
    raise UserError(
        f"vocabulary {vocabulary} has no counterpart in SeqIO; use Bytes, Characters, SentencePiece, WordPiece, Tokenizer or Marian."
    )


def of_targets(vocabulary: seqio.Vocabulary) -> seqio.Vocabulary:
    """Return the vocabulary of a task's targets, given that of its inputs: see `Vocabulary.of_targets`."""
    return to_seqio(vocabulary.wrapped.of_targets) if isinstance(vocabulary, TokenizerVocabulary) else vocabulary


def _with_ends(vocabulary: seqio.Vocabulary, ends: tuple[int, ...], forced: int | None) -> seqio.Vocabulary:
    """Store `Vocabulary.ends` and `forced` on SeqIO's vocabulary, which has only one EOS, so that `from_seqio` can restore them."""
    if ends:
        setattr(vocabulary, _ENDS, ends)
    if forced is not None:
        setattr(vocabulary, _FORCED, forced)
    return vocabulary


def from_seqio(vocabulary: seqio.Vocabulary) -> Vocabulary:
    """Return the `Vocabulary` with the same ids, which does not need TensorFlow.

    Raises:
      UserError: the ids are not text (PassThroughVocabulary), or the vocabulary or one of its options has no counterpart.
    """
    if isinstance(vocabulary, TokenizerVocabulary):
        return vocabulary.wrapped
    forced = getattr(vocabulary, _FORCED, None)
    if type(vocabulary) is seqio.ByteVocabulary:
        return Bytes(extra_ids=vocabulary.extra_ids, ends=getattr(vocabulary, _ENDS, ()), forced=forced)
    if type(vocabulary) is seqio.SentencePieceVocabulary:
        ends = getattr(vocabulary, _ENDS, ())
        plain = seqio.SentencePieceVocabulary(
            vocabulary.sentencepiece_model_file,
            extra_ids=vocabulary.extra_ids,
            use_fast_tokenizer=vocabulary._use_fast_tokenizer,
        )
        if vocabulary != _with_ends(plain, ends, forced):
            raise UserError(
                f"vocabulary {vocabulary.sentencepiece_model_file!r}: reverse_extra_ids=False and normalizer_spec_overrides"
                " are not supported; put the normalization into the model file."
            )
        return SentencePiece(
            path=vocabulary.sentencepiece_model_file,
            extra_ids=vocabulary.extra_ids,
            ends=ends,
            forced=forced,
        )
    if isinstance(vocabulary, seqio.PassThroughVocabulary):
        raise UserError(
            "a PassThroughVocabulary has ids but no text: the task's features need a text vocabulary (--data.vocabulary)."
        )
    raise UserError(
        f"vocabulary {type(vocabulary).__name__} has no counterpart without TensorFlow; use ByteVocabulary,"
        " SentencePieceVocabulary, Characters, WordPiece, Tokenizer or Marian."
    )


def with_vocabulary(name: str, vocabulary: Vocabulary) -> seqio.Task | seqio.Mixture:
    """Return the task or mixture `name` with another vocabulary, registered under a name derived from both.

    Features that are not text (PassThroughVocabulary, for example weights) do not change. For a mixture, all its tasks and
    mixtures are derived, with the same rates.

    Raises:
      UserError: the name is unknown, or the class of the task is a subclass that cannot be derived.
    """
    if name in seqio.MixtureRegistry.names():
        return _derived_mixture(seqio.MixtureRegistry.get(name), vocabulary)
    if name in seqio.TaskRegistry.names():
        return _derived_task(seqio.TaskRegistry.get(name), vocabulary)
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    raise UserError(f"unknown task or mixture {name!r} (--data.task).{nearest(name, known)}")


def derived(name: str) -> bool:
    """Return whether `with_vocabulary` made the name."""
    return _DERIVED.search(name) is not None


def _derived_name(name: str, vocabulary: Vocabulary) -> str:
    return f"{name}:{type(vocabulary).__name__.lower()}_{fingerprint(vocabulary)}"


def _derived_task(task: seqio.Task, vocabulary: Vocabulary) -> seqio.Task:
    name = _derived_name(task.name, vocabulary)
    replaced = to_seqio(vocabulary)
    features = {
        key: feature
        if isinstance(feature.vocabulary, seqio.PassThroughVocabulary)
        else dataclasses.replace(feature, vocabulary=of_targets(replaced) if key == "targets" else replaced)
        for key, feature in task.output_features.items()
    }
    if type(task) is not seqio.Task and type(task).replace is seqio.Task.replace:
        raise UserError(
            f"task {task.name!r} is a {type(task).__name__}, which does not define replace():"
            " register it with the vocabulary you want instead of using --data.vocabulary."
        )
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add_provider(name, task.replace(name=name, output_features=features))
    return seqio.TaskRegistry.get(name)


def _derived_mixture(mixture: seqio.Mixture, vocabulary: Vocabulary) -> seqio.Mixture:
    if type(mixture) is not seqio.Mixture:
        raise UserError(
            f"mixture {mixture.name!r} is a {type(mixture).__name__}: its vocabulary cannot be replaced (--data.vocabulary)."
        )
    name = _derived_name(mixture.name, vocabulary)
    parts = [(with_vocabulary(part, vocabulary).name, rate) for part, rate in mixture.rate_per_task_name.items()]
    # SeqIO has no public access to the sampling function, which may be the user's own.
    sample_fn = mixture._sample_fn
    seqio.MixtureRegistry.remove(name)
    return seqio.MixtureRegistry.add(name, parts, sample_fn=sample_fn)
