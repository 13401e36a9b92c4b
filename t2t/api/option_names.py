"""Names of the options of a configuration, and the nearest options for an unknown name."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from t2t.errors import nearest

_SYNONYMS = {
    "--optimizer.schedule.peak": "learning-rate lr peak-lr max-lr base-lr learning-rate-peak",
    "--optimizer.schedule.warmup": "warmup warmup-steps num-warmup-steps lr-warmup",
    "--optimizer.weight-decay": "wd decay",
    "--optimizer.clip-norm": "clip grad-clip gradient-clip max-grad-norm gradient-clipping clip-grad-norm",
    "--optimizer.b1": "beta1 beta-1 adam-beta1",
    "--optimizer.b2": "beta2 beta-2 adam-beta2",
    "--optimizer.eps": "epsilon adam-epsilon",
    "--trainable.exclude": "freeze frozen freeze-layers freeze-encoder",
    "--trainable.include": "unfreeze trainable-params",
    "--batch-size": "batch bs train-batch-size per-device-train-batch-size global-batch-size batchsize",
    "--steps": "epochs epoch num-epochs num-train-epochs max-steps num-steps train-steps total-steps iterations max-iters",
    "--dir": "output-dir output out out-dir run-dir model-dir save-dir log-dir logdir checkpoint-dir workdir",
    "--seed": "random-seed rng-seed",
    "--microbatches": "gradient-accumulation gradient-accumulation-steps accumulate-grad-batches grad-accum",
    "--checkpoint-every": "save-steps save-every save-interval checkpoint-interval",
    "--checkpoint.keep-last": "save-total-limit max-to-keep keep",
    "--eval-every": "eval-steps eval-interval evaluate-every validation-interval",
    "--log-every": "logging-steps log-interval log-steps",
    "--data.inputs-length": "seq-length seq-len sequence-length max-seq-length max-seq-len max-source-length block-size context-length max-length",
    "--data.targets-length": "target-length max-target-length seq-length max-length",
    "--data.task": "task dataset data dataset-name mixture",
    "--data.pack": "packing",
    "--vocabulary": "vocab vocab-file tokenizer tokenizer-name vocabulary-file",
    "--model.dtype": "precision fp16 bf16 mixed-precision dtype amp",
    "--model.dropout": "dropout dropout-rate",
    "--adapter.rank": "lora-r lora-rank lora",
    "--adapter.alpha": "lora-alpha",
    "--adapter.dropout": "lora-dropout",
    "--adapter.targets": "target-modules lora-target-modules lora-target",
    "--model.remat": "gradient-checkpointing checkpointing activation-checkpointing",
    "--model.encoder.d-model": "d-model embed hidden-size n-embd width",
    "--model.decoder.d-model": "d-model embed hidden-size n-embd width",
    "--model.encoder.num-layers": "num-layers layers layer n-layer num-hidden-layers depth",
    "--model.decoder.num-layers": "num-layers layers layer n-layer num-hidden-layers depth",
    "--model.encoder.num-heads": "num-heads heads n-head num-attention-heads",
    "--model.decoder.num-heads": "num-heads heads n-head num-attention-heads",
    "--model.encoder.d-ff": "d-ff mlp ffn n-inner intermediate-size",
    "--model.decoder.d-ff": "d-ff mlp ffn n-inner intermediate-size",
    "--start-from.run": "init-from pretrained pretrained-model model-name-or-path load init-checkpoint warm-start",
    "--objective.teacher": "teacher teacher-model teacher-model-name-or-path",
    "--objective.temperature": "distillation-temperature distill-temperature kd-temperature",
    "--beams": "num-beams beam-size beam",
    "--max-length": "max-new-tokens max-tokens length max-target-length",
    "--top-p": "nucleus",
    "--samples": "num-return-sequences n",
    "--text": "prompt query inputs",
    "--input": "input-file file inputs-file",
    "--output": "output-file out",
    "--out": "output output-dir dir",
}
"""Option -> its names in other programs."""


def option_names(config: Any, prefix: str = "--", *, flag: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the option of every value in a configuration, such as "--optimizer.schedule.peak", and whether it is a boolean flag."""
    flags: set[str] = set()
    if dataclasses.is_dataclass(config):
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        hints = typing.get_type_hints(type(config))
        flags = {name for name in values if hints[name] is bool}
        # A part that is None or empty has no options of its own; --vocabulary FILE sets the vocabulary.
        values = {
            name: value for name, value in values.items() if value not in (None, ()) or not _has_parts(hints[name])
        }
    elif isinstance(config, Mapping) and config:
        values = dict(config)
    elif isinstance(config, tuple) and any(map(dataclasses.is_dataclass, config)):
        values = {str(place): part for place, part in enumerate(config)}
    else:
        yield prefix.removesuffix("."), flag
        return
    for name, value in values.items():
        yield from option_names(value, f"{prefix}{name.replace('_', '-')}.", flag=name in flags)


def _has_parts(hint: Any) -> bool:
    return any(dataclasses.is_dataclass(one) for one in typing.get_args(hint))


def nearest_options(word: str, known: Collection[str]) -> str:
    """Return " Nearest: --a, --b." with the known options nearest to an unknown one.

    Synonyms come first, then options with the same last part (--weight-decay, --optimizer.weight-decay), then options with a similar spelling.
    """
    whole = word.partition("=")[0].replace("_", "-")
    last = whole.rpartition(".")[2].removeprefix("--")
    plain = last.removeprefix("no-")
    found = [name for name, others in _SYNONYMS.items() if name in known and plain in others.split()]
    if not found:
        alike = sorted(name for name in known if _last(name) in (last, plain))
        found = sorted(alike, key=lambda name: name.count("."))  # short options are the most common
    if not found:
        similar = difflib.get_close_matches(plain, {_last(name) for name in known}, n=3, cutoff=0.8)
        close = [name for end in similar for name in sorted(known) if _last(name) == end]
        found = sorted(close, key=lambda name: name.count("."))
    if "." in whole and (same := [name for name in found if name.rpartition(".")[0] == whole.rpartition(".")[0]]):
        found = same
    return f" Nearest: {', '.join(found[:3])}." if found else nearest(whole, known)


def _last(name: str) -> str:
    return name.rpartition(".")[2].removeprefix("--")
