"""What `t2t infer` does with encoders whose head is for labels, tags or spans, and texts as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t2t.decode import Pooling, embed_texts, label_texts, span_texts, tag_texts
from t2t.errors import UserError
from t2t.launch.infer_inputs import Name

if TYPE_CHECKING:
    from t2t.train.run import SavedRun

Rows = Sequence[dict[str, Any]]


def answer(
    run: SavedRun,
    rows: Rows,
    *,
    longest: int | None = None,
    batch_size: int = 32,
    params: Any = None,
    name: Name = lambda i: f"text {i + 1}",
) -> list[dict[str, Any]]:
    """Return what the run's head says of each row, an object with "inputs" and, for pairs, "second".

    A label: "prediction", "probability", "probabilities" of all labels. Tags: "prediction", the tags with spaces between, "words" that they are of,
    "probabilities" of each. A span: "prediction", as the text has it; "word", the number of its first word in "second" from 0, and "start", the
    character that it begins at, -1 for none; "probability".

    longest: tokens that a span has at most.
    Raises UserError for a question without a text ("second"), a text to be tagged with one, a text too long for the model's positions.
    """
    model, params = run.model, run.params() if params is None else params
    for i, row in enumerate(rows):
        if not isinstance(row.get("second", ""), str):
            raise UserError(f"{name(i)}: the field 'second' is {type(row['second']).__name__}, not text.")
    if model.config.can("classify"):
        pairs = [(row["inputs"], row.get("second")) for row in rows]
        found = label_texts(model, params, run.vocabulary, pairs, batch_size=batch_size, name=name)
        return [
            {
                "prediction": label.text,
                "probability": max(label.probabilities),
                "probabilities": dict(zip(model.config.labels, label.probabilities, strict=True)),
            }
            for label in found
        ]
    for i, row in enumerate(rows):
        if ("second" in row) != (model.config.can("find_span")):
            wanted = "a question (inputs) and the text it is asked of (second, --second)"
            raise UserError(f"{name(i)}: {wanted if model.config.can('find_span') else 'one text (inputs)'} is wanted.")
    if model.config.can("tag"):
        texts = [row["inputs"] for row in rows]
        tagged = tag_texts(model, params, run.vocabulary, texts, batch_size=batch_size, name=name)
        return [
            {
                "prediction": " ".join(label.text for _, label in words),
                "words": [word for word, _ in words],
                "probabilities": [max(label.probabilities) for _, label in words],
            }
            for words in tagged
        ]
    questions = [(row["inputs"], row["second"]) for row in rows]
    spans = span_texts(model, params, run.vocabulary, questions, longest=longest, batch_size=batch_size, name=name)
    return [
        {"prediction": span.text, "word": span.word, "start": span.start, "probability": span.probability}
        for span in spans
    ]


def embed(
    run: SavedRun,
    texts: Sequence[str],
    *,
    pooling: Pooling = "mean",
    normalise: bool = False,
    batch_size: int = 32,
    params: Any = None,
    name: Name = lambda i: f"text {i + 1}",
) -> list[list[float]]:
    """Return a vector for each text, by an encoder's run with any head: see `t2t.decode.embed_texts`."""
    if not run.model.config.can("embed"):
        raise UserError(
            f"--embed {pooling}: {run.directory} is a model of kind {run.model.config.kind}; texts become vectors by encoders."
        )
    params = run.params() if params is None else params
    return embed_texts(
        run.model,
        params,
        run.vocabulary,
        texts,
        pooling=pooling,
        normalise=normalise,
        batch_size=batch_size,
        name=name,
    )


def readable(answer: dict[str, Any]) -> str:
    """Return a label with its probability, words with their tags, or a span with its probability, as a line."""
    if "words" in answer:
        tags = answer["prediction"].split()
        return " ".join(f"{word}/{tag}" for word, tag in zip(answer["words"], tags, strict=True))
    return f"{answer['prediction'] or '(no answer)'}  {answer['probability']:.3f}"
