"""`t2t tasks`: list the registered tasks, or show examples of a task as the model receives them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from t2t.api.quiet import import_tensorflow
from t2t.api.vocabulary_file import vocabulary_of
from t2t.errors import UserError, nearest
from t2t.launch import marks, show_answers
from t2t.launch.output import console, has_colour, matching, table
from t2t.limits import Length, Range, Seed
from t2t.paths import LocalPath
from t2t.vocabularies import Vocabulary

if TYPE_CHECKING:
    from t2t.data.config import Data
    from t2t.nn.model import Kind

SURVEYED = 200
"""Number of examples for the statistics of lengths and padding."""
_TURNS = "input_weights"
"""The feature of conversations with the weights of the earlier turns."""
SOURCE = 60
"""Maximum characters of a source in the list."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example of a task as the model receives it.

    prefix:     the task's prefix, or "".
    vocabulary: None if the ids do not represent text.
    features:   feature -> ids, truncated to the model's lengths.
    raw:        all fields from the task, not truncated.
    cut:        whether a feature was truncated.
    targets:    SeqIO vocabulary of the targets.
    """

    task: str
    prefix: str
    vocabulary: Vocabulary | None
    features: Mapping[str, Any]
    raw: Mapping[str, Any]
    cut: bool
    targets: Any = None


def tasks(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None,
    *,
    filter: str = "",
    split: str = "train",
    examples: Annotated[int, Range(1, 1000)] = 3,
    inputs_length: Length = 512,
    targets_length: Length = 128,
    vocabulary: LocalPath | None = None,
    seed: Seed = 0,
) -> None:
    """List the tasks and mixtures, or show examples of one.

    Args:
        name: task or mixture to show. Default: list all.
        filter: list only the tasks whose name contains this text.
        split: split to show examples of.
        examples: number of examples. For a mixture, they come from its tasks in turn, the most frequent task first.
        inputs_length: maximum tokens of the inputs.
        targets_length: maximum tokens of the targets.
        vocabulary: vocabulary file to use instead of the task's: a SentencePiece .model, a WordPiece vocab.txt, a tokenizer.json, or the vocab.json of a Marian model.
        seed: seed of the random choices of the objectives.

    Raises:
        UserError: the task, the split or a file is not found, or the task's source reports an error.
    """
    out = console()
    if name is None:
        _list(out, filter)
        return
    import_tensorflow()
    from t2t import tasks as registry
    from t2t.data.config import Data

    found = registry.find(name)
    data = Data(
        task=name,
        split=split,
        inputs_length=inputs_length,
        targets_length=targets_length,
        seed=seed,
        vocabulary=None if vocabulary is None else vocabulary_of(vocabulary),
    )
    kind = kind_of(found.output_features)
    _check(data, kind)
    _describe(out, name, data)
    shown = list(itertools.islice(_draw_examples(data, kind, examples), examples))
    if all("inputs" in example.features and not len(example.features["inputs"]) for example in shown):
        kind = "decoder"  # empty inputs: a language modelling task
    _examples(out, data, shown)
    _survey(out, data, kind)


def kind_of(features: Mapping[str, Any]) -> Kind:
    """Return the kind of model for these features: with weights an encoder, else with inputs an encoder-decoder, else, and for conversations, a decoder."""
    if "weights" in features:
        return "encoder"
    if _TURNS in features:
        return "decoder"
    return "encoder_decoder" if "inputs" in features else "decoder"


def _list(out: Console, filter: str) -> None:
    from t2t import tasks as registry

    names = registry.names()
    shown = matching(names, filter)
    if not shown:
        raise UserError(f"no task's name contains {filter!r} (--filter).{nearest(filter, names)}")
    rows = table(out, "name", "kind", "features", "source", "splits", "metrics")
    for name in shown:
        about = registry.describe(name, sizes=False)
        features = " ".join(about.features)
        rows.add_row(
            name, about.kind, features, _short(about.source, out), _splits(registry.find(name)), " ".join(about.metrics)
        )
    out.print(rows)
    out.print(f"\n{len(shown)} of {len(names)}. t2t tasks NAME shows examples.", style="dim")


def _short(text: str, out: Console) -> str:
    return f"{text[: SOURCE - 1]}…" if out.is_terminal and len(text) > SOURCE else text


def _splits(found: Any) -> str:
    """Return the names of the splits if they are known without network access."""
    import seqio

    parts = found.tasks if isinstance(found, seqio.Mixture) else [found]
    if any(isinstance(part.source, seqio.TfdsDataSource) for part in parts):
        return "as in TFDS"
    return " ".join(dict.fromkeys(str(split) for part in parts for split in part.splits))


def _check(data: Data, kind: Kind) -> None:
    """Check the split and the lengths before the corpus is created or read. Raises UserError."""
    from t2t.data.registry import check

    try:
        check(data, kind, training=False)
    except UserError as error:  # --data.NAME is the option of a recipe; this command has --NAME
        raise UserError(str(error).replace("--data.", "--")) from None


def _describe(out: Console, name: str, data: Data) -> None:
    from t2t import tasks as registry
    from t2t.data.answers import is_text
    from t2t.data.registry import provider_of, tasks_of
    from t2t.tasks.sources import FileSource

    about = registry.describe(name)
    provider = provider_of(data)
    facts = table(out, "", "")
    facts.show_header = False
    facts.add_row("kind", about.kind)
    facts.add_row("source", about.source)
    if about.prefix:
        facts.add_row("prefix", repr(about.prefix))
    if about.labels:
        facts.add_row("labels", ", ".join(about.labels))
    if about.rates:
        facts.add_row("rates", ", ".join(f"{part} {rate:.1%}" for part, rate in about.rates.items()))
    facts.add_row(
        "splits", ", ".join(split if size is None else f"{split} {size:,}" for split, size in about.splits.items())
    )
    skipped = sum(task.source.skipped() for task in tasks_of(provider) if isinstance(task.source, FileSource))
    if skipped:
        facts.add_row("bad records", f"{skipped:,}, skipped (on_bad='skip')")
    for feature, spec in provider.output_features.items():
        text = f"{type(spec.vocabulary).__name__}, {spec.vocabulary.vocab_size:,} ids" + (
            ", EOS at the end" if spec.add_eos else ""
        )
        if not is_text(spec.vocabulary):
            text = str(spec.vocabulary)
        facts.add_row(f"feature {feature}", text)
    facts.add_row("metrics", ", ".join(about.metrics) or "none")
    out.print(Text(name, style="bold"))
    out.print(facts)


def _examples(out: Console, data: Data, shown: Sequence[Example]) -> None:
    colour = has_colour(out)
    used: set[marks.Mark] = set()
    for number, example in enumerate(shown, 1):
        out.print()
        heading = Text.assemble(
            (f"example {number}", "bold"), f"  {example.task}  " if example.task != data.task else "  "
        )
        heading.append("  ".join(_counts(example)))
        if example.cut:
            heading.append("  truncated", style="bold red")
        out.print(heading)
        for label, pieces in _labelled(example):
            used |= {piece.mark for piece in pieces}
            _block(out, label, marks.render(pieces, colour=colour))
        choices = example.raw.get("choices")
        if choices is not None and len(choices):
            _block(out, "choices", Text(" | ".join(marks.visible(_text(choice)) for choice in choices)))
    legend = marks.legend(used, colour=colour)
    if legend:
        out.print()
        out.print(Text.assemble(("marks: ", "dim"), legend))


def _block(out: Console, label: str, text: Text) -> None:
    out.print(Text(f"  {label}", style="dim"))
    if out.is_terminal:
        out.print(Padding(text, (0, 0, 0, 4), expand=False))
    else:
        for line in text.split("\n"):
            out.print(Text("    ") + line if line else "")


def _draw_examples(data: Data, kind: Kind, count: int) -> Iterator[Example]:
    """Yield examples. For a mixture, they come from its tasks in turn, the most frequent task first."""
    import numpy as np
    import seqio

    from t2t import tasks as registry
    from t2t.data.pipeline import evaluation_batches

    found = registry.find(data.task)
    names = [data.task]
    if isinstance(found, seqio.Mixture):
        having = [task for task in found.tasks if data.split in task.splits]
        names = [task.name for task in sorted(having, key=found.get_rate, reverse=True)]
    each = math.ceil(count / len(names))
    streams = []
    for name in names[:count]:
        part = dataclasses.replace(data, task=name)
        batches = evaluation_batches(part, kind, 1, examples=each)
        streams.append([(name, batches.layout, raw) for _, raws in batches for raw in raws])
    for name, layout, raw in (item for group in itertools.zip_longest(*streams) for item in group if item is not None):
        fitted, cut = layout.fit({feature: np.asarray(raw[feature]) for feature in layout.features})
        yield Example(
            task=name,
            prefix=registry.describe(name, sizes=False).prefix or "",
            vocabulary=_vocabulary(dataclasses.replace(data, task=name)),
            features=fitted,
            raw=raw,
            cut=cut,
            targets=registry.find(name).output_features["targets"].vocabulary,
        )


def _vocabulary(data: Data) -> Vocabulary | None:
    """Return the task's vocabulary, or None if the ids do not represent text."""
    from t2t.data.registry import task_vocabulary

    try:
        return task_vocabulary(data)
    except UserError:
        return None


def _counts(example: Example) -> list[str]:
    counts = []
    for name, ids in example.features.items():
        if name == "weights":
            if "texts" not in example.raw:
                counts.append(f"{int((ids > 0).sum())} to predict")
        elif name == _TURNS:
            learned = int((ids > 0).sum()) + len(example.features["targets"])
            counts.append(f"{learned} count in the loss")
        elif name not in ("types", "values") and (name != "targets" or not _has_labels(example)):
            full = len(example.raw[name])
            counts.append(f"{name} {len(ids)} tokens" + (f" of {full}" if full > len(ids) and example.cut else ""))
    return counts


def _labelled(example: Example) -> list[tuple[str, list[marks.Piece]]]:
    """Return (label, pieces) pairs: a corrupted text with its missing parts, or inputs and targets, or a text and its labels or span."""
    features, vocabulary = example.features, example.vocabulary
    if vocabulary is None:
        return [(name, [marks.Piece(" ".join(map(str, ids)), "text")]) for name, ids in features.items()]
    if _has_labels(example):
        return show_answers.shown(features, vocabulary, example.targets)
    inputs, targets = features.get("inputs", ()), features["targets"]
    if _TURNS in features:
        weights = [*features[_TURNS], *[1] * len(targets)]
        return [
            (
                "conversation, with the tokens that count in the loss",
                marks.learned([*inputs, *targets], weights, vocabulary),
            )
        ]
    if "weights" in features and "types" in example.raw:
        return _pair(example, vocabulary)
    if "weights" in features:
        return [("text, as the encoder sees it", marks.masked(inputs, targets, features["weights"], vocabulary))]
    if marks.is_corrupted(inputs, targets, vocabulary):
        return [("text, with the parts missing from the inputs", marks.corrupted(inputs, targets, vocabulary))]
    if "dropped" in example.raw and not example.cut:
        found = marks.dropped(inputs, targets, example.raw["dropped"], vocabulary)
        return [("text, with the parts missing from the inputs", found)]
    if _hidden_in_place(inputs, targets, vocabulary):
        changed = [float(seen != token) for seen, token in zip(inputs, targets, strict=True)]
        return [("text, with the tokens that the inputs hide", marks.masked(inputs, targets, changed, vocabulary))]
    shown = []
    if "sentences" in example.raw and not example.cut:
        shown.append(("inputs", marks.permuted(inputs, example.raw["sentences"], vocabulary)))
    elif vocabulary.mask_id in inputs and vocabulary.mask_id not in targets:
        shown.append(("inputs", marks.infilled(inputs, vocabulary)))
    elif len(inputs):
        shown.append(("inputs", marks.plain(inputs, vocabulary, prefix=example.prefix)))
    return [*shown, ("targets", marks.plain(targets, vocabulary))]


def _hidden_in_place(inputs: Sequence[int], targets: Sequence[int], vocabulary: Vocabulary) -> bool:
    """Return whether the inputs are the targets with some tokens masked or replaced."""
    if len(inputs) != len(targets) or vocabulary.mask_id not in inputs or vocabulary.mask_id in targets:
        return False
    return 2 * sum(seen == token for seen, token in zip(inputs, targets, strict=True)) > len(targets)


def _pair(example: Example, vocabulary: Vocabulary) -> list[tuple[str, list[marks.Piece]]]:
    """Return the two texts of a pair. If there is a question about the pair, its answer comes first."""
    features, types = example.features, list(example.raw["types"])[: len(example.features["inputs"])]
    border = types.index(1) if 1 in types else len(types)

    def part(start: int, end: int) -> list[marks.Piece]:
        inputs, targets, weights = (features[name][start:end] for name in ("inputs", "targets", "weights"))
        return marks.masked(inputs, targets, weights, vocabulary)

    asked = "pair" in example.raw
    shown = [("the answer about the pair, at the first token", part(0, 1))] if asked else []
    return [
        *shown,
        ("type 0, as the encoder sees it", part(int(asked), border)),
        ("type 1, as the encoder sees it", part(border, len(types))),
    ]


def _has_labels(example: Example) -> bool:
    """Return whether the targets are not text but labels, numbers, tags, spans or numbers of texts."""
    from t2t.data.answers import is_text

    return not is_text(example.targets)


def _survey(out: Console, data: Data, kind: Kind) -> None:
    from t2t.data.pipeline import inspect
    from t2t.data.survival import lost_of

    report = inspect(data, kind, examples=SURVEYED)
    for line in lost_of(data, kind, examples=SURVEYED):
        out.print(Text(f"\n{line}", style="bold red"))
    out.print()
    first = (
        f"The first {report.examples:,} examples"
        if report.examples >= SURVEYED
        else f"All {report.examples:,} examples"
    )
    out.print(Text(f"{first} of {data.split}, for a model of kind {kind.replace('_', '-')}", style="bold"))
    rows = table(out, "", "mean", "longest", "room", right=("mean", "longest", "room"))
    for name, mean in report.mean_lengths.items():
        if name not in ("weights", "types", "values", _TURNS):
            rows.add_row(f"{name}, tokens", f"{mean:,.1f}", f"{report.max_lengths[name]:,}", f"{report.room[name]:,}")
    out.print(rows)
    shares = table(out, "rows", "share", right=("share",))
    for label, value, wrong in (
        ("truncated", report.trimmed, report.trimmed > 0),
        ("without a target, skipped", report.empty, report.empty > 0),
        ("padding, one example per row", report.padding, False),
        ("padding, packed", report.padding_packed, False),
    ):
        shares.add_row(label, Text(f"{value:.1%}", style="bold red" if wrong else ""))
    out.print()
    out.print(shares)


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
