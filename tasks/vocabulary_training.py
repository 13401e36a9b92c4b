"""Train vocabularies on the texts of a task (`t2t vocab`)."""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import seqio
import tensorflow as tf

from t2t.data.tfds import prepare
from t2t.errors import UserError, nearest
from t2t.paths import check
from t2t.tasks.register import find, format_of
from t2t.vocabularies import SentencePiece, Vocabulary, WordPiece

KINDS = ("unigram", "bpe", "wordpiece")
_log = logging.getLogger(__name__)
_LONGEST = (
    4000  # maximum characters of a line: SentencePiece drops lines above its limit, and learns nothing across spaces
)
_MAX_LINES = 2_000_000  # maximum number of training lines
_RESERVED = "\u2585"  # SentencePiece drops lines with this character
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_vocabulary(
    task: str,
    *,
    size: int,
    out: str | os.PathLike[str],
    kind: str = "unigram",
    extra_ids: int = 100,
    split: str = "train",
    examples: int | None = 200_000,
    lowercase: bool = True,
) -> Vocabulary:
    """Train a vocabulary on a task's texts, write it to `out` and return it.

    Args:
      task: name of a task or mixture; each task of a mixture contributes up to `examples`.
      size: total number of ids, including extra ids.
      out: file to write; it must not exist.
      kind: "unigram" or "bpe" (SentencePiece), or "wordpiece" (BERT's vocab.txt).
      extra_ids: number of sentinels at the end, for T5's span corruption. The file does not contain them.
      split: the split to read.
      examples: maximum number of examples to read from each task, None for all.
      lowercase: for "wordpiece": convert the text to lower case and strip accents.

    Raises:
      UserError: an unknown task, kind or split, an existing file, or a size that does not suit the texts.
    """
    if kind not in KINDS:
        raise UserError(f"kind {kind!r} of vocabulary: must be one of {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    if check(out, "--out").exists():
        raise UserError(f"{out}: already exists; name another file (--out).")
    if examples is not None and examples < 1:
        raise UserError(f"examples {examples} (--examples) must be at least 1. Nearest: 1.")
    texts = task_texts(task, split=split, examples=examples)
    if kind == "wordpiece":
        return train_wordpiece(texts, size=size, out=out, lowercase=lowercase, extra_ids=extra_ids)
    return train_sentencepiece(texts, size=size, out=out, extra_ids=extra_ids, model=kind)


def task_texts(name: str, *, split: str = "train", examples: int | None = None) -> Iterator[str]:
    """Yield the texts of a task, or of each task of a mixture: inputs with their prefix, and targets.

    For a task that was registered with SeqIO directly, yield all text fields of its source.

    Raises:
      UserError: an unknown name, a split that no task has, or a task without text.
    """
    found = find(name)
    tasks = [found] if isinstance(found, seqio.Task) else found.tasks
    with_split = [task for task in tasks if split in task.splits]
    if not with_split:
        raise UserError(f"split {split!r} of {name!r}: unknown split.{nearest(split, map(str, found.splits))}")
    return itertools.chain.from_iterable(_texts(task, split, examples) for task in with_split)


def _texts(task: seqio.Task, split: str, examples: int | None) -> Iterator[str]:
    prepare(task.source)
    dataset = task.source.get_dataset(split=split, shuffle=examples is not None, seed=0)
    formatter = format_of(task)
    if formatter is not None:
        dataset = formatter(dataset)
    fields = [
        field
        for field, spec in dataset.element_spec.items()
        if isinstance(spec, tf.TensorSpec | tf.RaggedTensorSpec) and spec.dtype == tf.string and field != "choices"
    ]
    if not fields:
        raise UserError(f"task {task.name!r}: its source has no text to train a vocabulary on.")
    if examples is not None:
        dataset = dataset.take(examples)
    invalid = 0
    for example in dataset:
        for field in fields:
            value = example[field]
            flat = value.flat_values if isinstance(value, tf.RaggedTensor) else tf.reshape(value, [-1])
            for raw in flat.numpy():
                text = raw.decode("utf-8", errors="ignore")
                invalid += len(text.encode("utf-8")) < len(raw)
                yield text
    if invalid:
        _log.warning("task %s: %d texts are not valid UTF-8; skipped their invalid bytes", task.name, invalid)


def train_sentencepiece(
    texts: Iterable[str], *, size: int, out: str | os.PathLike[str], extra_ids: int = 100, model: str = "unigram"
) -> SentencePiece:
    """Train a SentencePiece model on `texts`, write it to `out` and return its vocabulary.

    As in T5, padding is 0, EOS 1, and unknown 2. Unknown characters fall back to bytes, so that any text survives.

    Args:
      texts: strings. Their lines are split into parts of up to 4000 characters, at a space if possible. If there are more than 2,000,000
        parts, a random sample of that size is used.
      size: total number of ids, including extra ids.
      out: file to write.
      extra_ids: number of sentinels at the end; the file does not contain them.
      model: "unigram" or "bpe".

    Raises:
      UserError: no text, or a size that does not suit the texts; the message quotes SentencePiece's reason.
    """
    import sentencepiece

    if model not in ("unigram", "bpe"):
        raise UserError(f"SentencePiece model {model!r}: must be 'unigram' or 'bpe'.")
    if size <= extra_ids + 3 + 256:
        raise UserError(
            f"vocabulary size {size} (--size): must be above {extra_ids + 259}, for extra ids, special tokens and bytes."
        )
    lines = _Lines(texts)
    first, sentences = _nonempty(iter(lines))
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], sentences),
            model_writer=written,
            vocab_size=size - extra_ids,
            model_type=model,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            byte_fallback=True,
            character_coverage=0.9995,
            max_sentence_length=1 << 16,
            input_sentence_size=_MAX_LINES,
            shuffle_input_sentence=True,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2]
        if most := re.search(r"<= (\d+)", reason):
            reason = f"the texts allow at most {int(most[1]) + extra_ids}."
        elif least := re.search(r"required_chars\. \d+ vs (\d+)", reason):
            reason = f"the characters in the texts need at least {int(least[1]) + extra_ids}."
        raise UserError(f"vocabulary size {size} (--size), including {extra_ids} extra ids: {reason}") from None
    lines.log_changes()
    _write(out, written.getvalue())
    return SentencePiece(path=str(out), extra_ids=extra_ids)


class _Lines:
    """Lines of texts for SentencePiece. Counts lines that must be changed or that may be dropped."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self._parts = self._reserved = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            for line in text.splitlines():
                self._reserved += _RESERVED in line
                for part in _cut(line.replace(_RESERVED, " ").strip()):
                    self._parts += 1
                    yield part

    def log_changes(self) -> None:
        """Log how many lines were changed or dropped."""
        if self._reserved:
            _log.warning(
                "%d lines contain the character U+2585, which SentencePiece reserves; it was replaced by a space",
                self._reserved,
            )
        if self._parts > _MAX_LINES:
            _log.warning("of %d lines, a random sample of %d was used for training", self._parts, _MAX_LINES)


def _cut(line: str) -> Iterator[str]:
    """Yield a line in parts, split at spaces if possible."""
    while len(line) > _LONGEST:
        place = line.rfind(" ", 1, _LONGEST)
        place = place if place > 0 else _LONGEST
        yield line[:place]
        line = line[place:].lstrip()
    if line:
        yield line


def train_wordpiece(
    texts: Iterable[str], *, size: int, out: str | os.PathLike[str], lowercase: bool = True, extra_ids: int = 0
) -> WordPiece:
    """Train a WordPiece vocabulary on `texts`, write it to `out` as BERT's `vocab.txt` and return it.

    Args:
      texts: strings.
      size: total number of ids, including extra ids. The texts may give fewer.
      out: file to write.
      lowercase: whether to convert the text to lower case and strip accents.
      extra_ids: number of sentinels at the end; the file does not contain them.

    Raises:
      UserError: no text, or a size that is too small for the characters in the texts.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if str(out).endswith(".json"):
        raise UserError(
            f"{out}: WordPiece writes a vocab.txt, but names that end in .json are read as a tokenizer; name it .txt."
        )
    least = extra_ids + len(_SPECIAL) + 1
    if size < least:
        raise UserError(f"vocabulary size {size} (--size): must be {least} or more, for extra ids and special tokens.")
    first, rest = _nonempty(text for text in texts if text.strip())
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=size - extra_ids,
        special_tokens=_SPECIAL,
        limit_alphabet=max(1000, (size - extra_ids) // 2),  # number of characters; some writing systems have thousands
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain([first], rest), trainer)
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if len(tokens) > size - extra_ids:
        raise UserError(
            f"vocabulary size {size} (--size): the characters in the texts and {extra_ids} extra ids need at least {len(tokens) + extra_ids}."
        )
    _write(out, "".join(f"{token}\n" for token, _ in tokens).encode("utf-8"))
    return WordPiece(path=str(out), lowercase=lowercase, extra_ids=extra_ids)


def _nonempty(texts: Iterator[str]) -> tuple[str, Iterator[str]]:
    first = next(texts, None)
    if first is None:
        raise UserError("no text to train a vocabulary on: all texts are empty.")
    return first, texts


def _write(out: str | os.PathLike[str], content: bytes) -> None:
    path = Path(out)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror} (--out).") from None
