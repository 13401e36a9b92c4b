"""Predictions of an encoder's head for labels, numbers, tags or spans, and embeddings of texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from t2t.decode.placement import fetch, mesh_of, place, row_parts
from t2t.decode.rows import Name, TooLong, bucket, filled, groups, text_name, tokens
from t2t.nn.model import Model, ModelConfig
from t2t.nn.pooling import Pooling
from t2t.types import Batch, Params
from t2t.vocabularies import Vocabulary

_WORD = re.compile("[^ \\t\\n\\v\\f\\r]+")
THRESHOLD = 0.5
"""Probability from which a text has a label, if it may have several."""


@struct.dataclass
class Spans:
    """First and last position of each row's most likely span, and its probability."""

    first: Int[Array, "B"]
    last: Int[Array, "B"]
    probability: Float[Array, "B"]


def best_spans(logits: Float[Array, "B L K"], longest: int | None = None) -> Spans:
    """Return the most likely span of each row, among spans of 1 to `longest` tokens.

    logits: logits of a span head, for rows of one example each.
    """
    scores = jax.nn.log_softmax(logits[:, :2].astype(jnp.float32), axis=-1)
    joint = scores[:, 0, :, None] + scores[:, 1, None, :]
    size = joint.shape[-1]
    length = jnp.arange(size)[None] - jnp.arange(size)[:, None] + 1
    legal = (length >= 1) & (length <= (size if longest is None else longest))
    flat = jnp.where(legal, joint, -jnp.inf).reshape(joint.shape[0], -1)
    best = jnp.argmax(flat, axis=-1).astype(jnp.int32)
    return Spans(
        first=best // size,
        last=best % size,
        probability=jnp.exp(jnp.take_along_axis(flat, best[:, None], axis=-1)[:, 0]),
    )


def target_text(config: ModelConfig, vocabulary: Vocabulary, inputs: Sequence[int], ids: Sequence[int]) -> str:
    """Return an encoder's targets or predictions as text: tokens, labels separated by spaces, or a span of the inputs ("" for no answer).

    ids: the targets or predictions at the positions with weight.
    """
    if config.can("find_span"):
        first, last = ids
        return vocabulary.decode(inputs[first : last + 1]).strip() if first else ""
    return " ".join(config.labels[i] for i in ids) if config.labels else vocabulary.decode(ids)


def words_between(text: str, starts: Sequence[int], first: int, last: int) -> tuple[str, int, int]:
    """Return the words of a text that a span of tokens covers, the index of the first word and the index of its first character.

    starts: position in the row of each word's first token, and at the end the position after the last word's last token.
    Returns "", -1 and -1 for no answer: a span that covers any token outside the text.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    touched = [
        word
        for word in range(len(starts) - 1)
        if starts[0] <= first and last < starts[-1] and starts[word] <= last and first < starts[word + 1]
    ]
    if not touched:
        return "", -1, -1
    begin = spans[touched[0]][0]
    return text[begin : spans[touched[-1]][1]], touched[0], begin


class Label(NamedTuple):
    """The most likely label of a text or word, and the probabilities of all labels in the order of the model."""

    text: str
    probabilities: list[float]


class LabelSet(NamedTuple):
    """The labels of a text with a probability of at least 0.5, and the probabilities of all labels, both in the order of the model."""

    texts: list[str]
    probabilities: list[float]


class Numbers(NamedTuple):
    """The numbers that the model predicts for a text, in the order of the model."""

    values: list[float]


class Span(NamedTuple):
    """The words of a text that answer a question ("" if none), the first word's index and first character (-1 if none), and the probability."""

    text: str
    word: int
    probability: float
    start: int


class Framed(NamedTuple):
    """One text, or a pair, with the special tokens that encoder tasks add.

    starts: position in `ids` of each word of a text tokenised word by word, and at the end the position after the last word.
    """

    ids: list[int]
    types: list[int]
    words: list[str]
    starts: list[int]


def label_texts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    texts: Sequence[tuple[str, str | None]],
    *,
    batch_size: int = 32,
    name: Name = text_name,
) -> list[Label]:
    """Return the label of each text, or of each pair if its second text is not None. Raises UserError if a text is too long for the model."""
    rows = [_framed(vocabulary, first, second) for first, second in texts]
    found: list[Any] = [None] * len(rows)
    for indices, scores in _computed(_label_scores, model, params, rows, batch_size, name):
        for i, probabilities in zip(indices, scores, strict=False):
            found[i] = _label(model, probabilities[0])
    return found


def value_texts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    texts: Sequence[tuple[str, str | None]],
    *,
    batch_size: int = 32,
    name: Name = text_name,
) -> list[LabelSet] | list[Numbers]:
    """Return the labels or the numbers of each text or pair. Raises UserError if a text is too long for the model."""
    rows = [_framed(vocabulary, first, second) for first, second in texts]
    found: list[Any] = [None] * len(rows)
    for indices, logits in _computed(first_logits, model, params, rows, batch_size, name):
        for i, scores in zip(indices, np.asarray(logits, np.float64), strict=False):
            numbers = model.config.output == "numbers"
            found[i] = Numbers(scores.tolist()) if numbers else label_set(model.config.labels, scores)
    return found


def label_set(labels: Sequence[str], scores: Float[np.ndarray, "K"]) -> LabelSet:
    """Return the labels of a text whose labels have these scores: the probability of each is the sigmoid of its score."""
    probabilities = (0.5 * (1.0 + np.tanh(0.5 * scores))).tolist()  # the sigmoid, without overflow
    chosen = [label for label, value in zip(labels, probabilities, strict=True) if value >= THRESHOLD]
    return LabelSet(chosen, probabilities)


def tag_texts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    name: Name = text_name,
) -> list[list[tuple[str, Label]]]:
    """Return the words of each text, separated by white space, with their labels. Words without tokens are omitted."""
    rows = [_framed_words(vocabulary, None, text) for text in texts]
    found: list[Any] = [None] * len(rows)
    for indices, scores in _computed(_label_scores, model, params, rows, batch_size, name):
        for i, probabilities in zip(indices, scores, strict=False):
            row = rows[i]
            found[i] = [
                (word, _label(model, probabilities[start]))
                for word, start, end in zip(row.words, row.starts, row.starts[1:], strict=False)
                if end > start
            ]
    return found


def span_texts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    pairs: Sequence[tuple[str, str]],
    *,
    longest: int | None = None,
    batch_size: int = 32,
    name: Name = text_name,
) -> list[Span]:
    """Return, for each pair of a question and a text, the part of the text that answers the question.

    longest: maximum number of tokens of a span. A span that contains the first token, or any other token outside the text, means no answer.
    """
    rows = [_framed_words(vocabulary, question, text) for question, text in pairs]
    found: list[Any] = [None] * len(rows)
    compute = partial(_spans, longest=longest)
    for indices, spans in _computed(compute, model, params, rows, batch_size, name):
        for at, i in enumerate(indices):
            first, last, row = int(spans.first[at]), int(spans.last[at]), rows[i]
            text, word, start = words_between(pairs[i][1], row.starts, first, last)
            found[i] = Span(text, word, float(spans.probability[at]), start)
    return found


def embed_texts(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    texts: Sequence[str],
    *,
    pooling: Pooling | None = None,
    normalise: bool | None = None,
    batch_size: int = 32,
    name: Name = text_name,
) -> list[list[float]]:
    """Return a vector for each text, pooled from the encoder's outputs at its tokens, special tokens included, and passed through
    the layer `vector_dense` if the model has one.

    pooling:   see `t2t.nn.pooling.Pooling`. None uses the model's `vector_pooling`.
    normalise: whether to divide each vector by its Euclidean norm. None uses the model's `vector_normalize`.

    Raises UserError for a text that is longer than the model's positions or its `vector_max_length`.
    """
    config = model.config
    pooling = config.vector_pooling if pooling is None else pooling
    normalise = config.vector_normalize if normalise is None else normalise
    rows = [_framed(vocabulary, text, None) for text in texts]
    found: list[Any] = [None] * len(rows)
    compute = partial(_pooled, pooling=pooling)
    most = config.vector_max_length
    for indices, vectors in _computed(compute, model, params, rows, batch_size, name, most):
        for i, vector in zip(indices, vectors, strict=False):
            vector = np.asarray(vector, np.float64)
            length = float(np.linalg.norm(vector)) if normalise else 1.0
            found[i] = (vector / (length or 1.0)).tolist()
    return found


@partial(jax.jit, static_argnums=0)
def first_logits(model: Model, params: Params, batch: Batch) -> Float[Array, "B K"]:
    """Return the scores of each row's text: those at its first token. Rows have one text each."""
    return model.logits(params, batch)[:, 0]


@partial(jax.jit, static_argnums=0)
def _label_scores(model: Model, params: Params, batch: Batch) -> Float[Array, "B L K"]:
    return jax.nn.softmax(model.logits(params, batch), axis=-1)


@partial(jax.jit, static_argnums=0, static_argnames="longest")
def _spans(model: Model, params: Params, batch: Batch, *, longest: int | None) -> Spans:
    return best_spans(model.logits(params, batch), longest)


@partial(jax.jit, static_argnums=0, static_argnames="pooling")
def _pooled(model: Model, params: Params, batch: Batch, *, pooling: Pooling) -> Float[Array, "B D"]:
    assert batch.encoder is not None, "the batch has no encoder tokens"
    return model.vectors(params, model.hidden(params, batch), batch.encoder.segments, pooling=pooling)[:, 0]


def _computed(
    compute: Callable[..., Any],
    model: Model,
    params: Params,
    rows: Sequence[Framed],
    batch_size: int,
    name: Name,
    most: int | None = None,
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yield (indices of rows, result of `compute` on them). Rows of similar lengths are batched together.

    most: maximum number of tokens of a row, besides the model's positions.
    """
    limits = [limit for limit in (most, model.config.max_length) if limit is not None]
    limit = min(limits, default=None)
    long = {} if limit is None else {i: (len(row.ids), limit) for i, row in enumerate(rows) if len(row.ids) > limit}
    for i, (size, _) in long.items():
        own = limit == model.config.max_length
        why = f"the model has only {limit} positions" if own else f"model.vector_max_length is {limit}"
        raise TooLong(f"{name(i)} has {size} tokens, but {why}.", long)
    mesh = mesh_of(params)
    sizes: list[tuple[int, ...]] = [(bucket(len(row.ids), limit=limit),) for row in rows]
    typed = model.config.types > 1
    for group in groups(sizes, batch_size, row_parts(mesh)):
        shape = (group.rows, max(sizes[i][0] for i in group.indices))
        encoder = tokens([rows[i].ids for i in group.indices], shape)
        if typed:
            types = filled([rows[i].types for i in group.indices], shape, np.int32)
            encoder = encoder.replace(types=types)  # type: ignore[attr-defined]
        zeros = np.zeros(shape, np.int32)
        batch = Batch(encoder=encoder, decoder=None, targets=zeros, weights=zeros.astype(np.float32))
        yield group.indices, fetch(compute(model, params, place(batch, mesh)))


def _label(model: Model, probabilities: np.ndarray) -> Label:
    return Label(model.config.labels[int(np.argmax(probabilities))], [float(p) for p in probabilities])


def _framed(vocabulary: Vocabulary, first: str, second: str | None) -> Framed:
    """Return [CLS] first [SEP] second [SEP], or first EOS second EOS without [CLS] and [SEP]. RoBERTa has two [SEP] between the texts."""
    parts = [vocabulary.encode(text) for text in (first, second) if text is not None]
    return _joined(vocabulary, parts, [], [])


def _framed_words(vocabulary: Vocabulary, question: str | None, text: str) -> Framed:
    """Return a text tokenised word by word, with its special tokens, after the question if there is one."""
    words = _WORD.findall(text)
    pieces = [vocabulary.encode(f" {word}" if i else word) for i, word in enumerate(words)]
    before = [] if question is None else [vocabulary.encode(question)]
    return _joined(vocabulary, [*before, [i for piece in pieces for i in piece]], words, [len(p) for p in pieces])


def _joined(vocabulary: Vocabulary, parts: list[list[int]], words: list[str], sizes: list[int]) -> Framed:
    cls, sep = vocabulary.cls_id, vocabulary.sep_id
    framed = cls is not None and sep is not None
    ids: list[Any] = [cls] if framed else []
    types, begin = [0] * len(ids), 0
    for number, part in enumerate(parts):
        begin = len(ids)
        last = number == len(parts) - 1
        ids += [*part, *([sep if framed else vocabulary.eos_id] if last else vocabulary.between)]
        types += [number] * (len(ids) - begin)
    starts = [begin + sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return Framed(ids, types, words, starts)
