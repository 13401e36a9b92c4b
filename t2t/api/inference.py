"""Inference with a run's model: generated texts, filled masks, labels, tags, spans, vectors. Imports neither TensorFlow nor SeqIO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax

from t2t.api.fitting import rows_that_fit
from t2t.api.lengths import Lengths, Name, Rows
from t2t.api.mixing import Mixture
from t2t.decode import (
    MASK,
    Candidate,
    Decoding,
    Greedy,
    Label,
    LabelSet,
    Numbers,
    Output,
    Pooling,
    Span,
    embed_texts,
    fill_texts,
    generate_texts,
    label_texts,
    span_texts,
    tag_texts,
    value_texts,
)
from t2t.errors import UserError
from t2t.nn.capabilities import OF_TEXT, VALUES, Capability
from t2t.nn.model import ModelConfig
from t2t.train.run import SavedRun

T = TypeVar("T")
Answer = Label | LabelSet | Numbers | list[tuple[str, Label]] | Span
"""Output of an encoder's head for a text: its label or labels, its numbers, its words with their tags, or the span that answers a question."""

AT_ONCE = 1024
"""Number of texts to sort by length at once. Their results are returned before the next texts start."""


def _item(i: int) -> str:
    return f"text {i + 1}"


def asked(
    run: SavedRun,
    rows: Rows,
    compute: Callable[[Rows, int, Name, int], Sequence[T]],
    *,
    lengths: Lengths,
    batch_size: int = 32,
    name: Name = _item,
) -> Iterator[tuple[dict[str, Any], T]]:
    """Yield each row with its result. A truncated row has the key "truncated". Rows that `lengths` skips are missing.

    compute: a function of the rows, the batch size, the name function, and the index of the first row among all rows.
    Raises UserError for a text that is too long if `lengths` is set to stop.
    """
    for start in range(0, len(rows), AT_ONCE):

        def place(i: int, start: int = start) -> str:
            return name(start + i)

        def compute_rows(some: Rows, place: Name, start: int = start) -> list[tuple[dict[str, Any], T]]:
            at_once = rows_that_fit(run, some, batch_size, place)
            return list(zip(some, compute(some, at_once, place, start), strict=True))

        yield from lengths.apply(compute_rows, rows[start : start + AT_ONCE], place)


def does(config: ModelConfig) -> str:
    """Return a description of what a model does, for errors."""
    words: dict[Capability, str] = {
        "fill_mask": f"fills in {MASK}",
        "classify": "labels texts",
        "regress": "predicts numbers of texts",
        "tag": "tags words",
        "find_span": "finds a span of a second text that answers the first",
    }
    if config.output == "vectors":
        return "computes vectors of texts"
    return next((text for what, text in words.items() if config.can(what)), f"is a model of kind {config.kind}")


def infer(
    run: SavedRun,
    texts: Sequence[str],
    decoding: Decoding | None = None,
    *,
    max_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    continue_text: bool = False,
    params: Any = None,
    name: Name = _item,
    mixture: Mixture | None = None,
    adapters: Sequence[str | None] = (),
) -> list[list[Output]]:
    """Return the outputs for each text, in order. The run must be a decoder or an encoder-decoder.

    Args:
      run: a loaded run. Its parameters are read if `params` is None.
      decoding: the default is greedy.
      max_length: maximum number of tokens to generate. The default is the run's targets_length.
      continue_text: continue the text: append no EOS to it.
      name: returns the name of the i-th text for errors.
      mixture: the run with several adapters, instead of `params`.
      adapters: with a mixture: for each text, the name of its adapter, or None for the run alone.

    Raises:
      UserError: the model is an encoder, or a text is too long for the model's positions.
    """
    model = run.model if mixture is None else mixture.model
    if mixture is not None:
        params = mixture.params
    return generate_texts(
        model,
        run.params() if params is None else params,
        run.vocabulary,
        texts,
        Greedy() if decoding is None else decoding,
        length=run.experiment.data.targets_length if max_length is None else max_length,
        batch_size=batch_size,
        key=jax.random.key(seed),
        append_eos=not continue_text,
        name=name,
        adapters=None if mixture is None else mixture.numbers(adapters),
    )


def fill(
    run: SavedRun,
    texts: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 32,
    params: Any = None,
    name: Name = _item,
) -> list[list[list[Candidate]]]:
    """Return the `top` candidates for each `<mask>` of each text. The run must be an encoder.

    Raises:
      UserError: the run is not an encoder; a text has no mask, or is too long for the model's positions.
    """
    return fill_texts(
        run.model,
        run.params() if params is None else params,
        run.vocabulary,
        texts,
        top=top,
        batch_size=batch_size,
        name=name,
    )


def answer(
    run: SavedRun,
    rows: Rows,
    *,
    longest: int | None = None,
    batch_size: int = 32,
    params: Any = None,
    name: Name = _item,
) -> Sequence[Answer]:
    """Return the output of the run's head for each row. A row has "inputs" and, for pairs, "second".

    longest: maximum number of tokens of a span.
    Raises UserError if a question has no text ("second"), if a text to tag has one, or if a text is too long for the model's positions.
    """
    model, params = run.model, run.params() if params is None else params
    for i, row in enumerate(rows):
        if not isinstance(row.get("second", ""), str):
            raise UserError(f"{name(i)}: the field 'second' is {type(row['second']).__name__}, not text.")
    if model.config.output in OF_TEXT:
        pairs = [(row["inputs"], row.get("second")) for row in rows]
        predict = value_texts if model.config.output in VALUES else label_texts
        return predict(model, params, run.vocabulary, pairs, batch_size=batch_size, name=name)
    for i, row in enumerate(rows):
        if ("second" in row) != model.config.can("find_span"):
            pair = "a question (inputs) and the text with the answer (second, --second)"
            raise UserError(f"{name(i)}: expected {pair if model.config.can('find_span') else 'one text (inputs)'}.")
    if model.config.can("tag"):
        texts = [row["inputs"] for row in rows]
        return tag_texts(model, params, run.vocabulary, texts, batch_size=batch_size, name=name)
    questions = [(row["inputs"], row["second"]) for row in rows]
    return span_texts(model, params, run.vocabulary, questions, longest=longest, batch_size=batch_size, name=name)


def embed(
    run: SavedRun,
    texts: Sequence[str],
    *,
    pooling: Pooling | None = None,
    normalise: bool | None = None,
    batch_size: int = 32,
    params: Any = None,
    name: Name = _item,
) -> list[list[float]]:
    """Return a vector for each text, see `t2t.decode.embed_texts`. ELECTRA's vectors are those of its discriminator.

    The run must be an encoder with any head. Raises UserError otherwise.
    """
    if not run.model.config.can("embed"):
        raise UserError(
            f"--embed{f' {pooling}' if pooling else ''}: {run.directory} is a model of kind {run.model.config.kind}; only encoders return vectors."
        )
    model, params = run.model, run.params() if params is None else params
    for part in model.config.parts().values():
        if part.embeds:
            model, params = part.config.build(), part.params(run.model.merged(params))
    return embed_texts(
        model,
        params,
        run.vocabulary,
        texts,
        pooling=pooling,
        normalise=normalise,
        batch_size=batch_size,
        name=name,
    )
