"""`t2t import`: make a run from a model of `transformers`, a GGUF file, a T5X checkpoint or an adapter of PEFT."""

from __future__ import annotations

import itertools
import sys
from typing import Annotated, Literal

import tyro

from t2t.api.importing import import_checkpoint
from t2t.paths import LocalPath


def import_model(
    source: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    *,
    dir: LocalPath,
    preset: str | None = None,
    vocabulary: LocalPath | None = None,
    base: LocalPath | None = None,
    frozen_storage: Literal["copy", "reference"] = "copy",
    accept_option: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = (),
    check: bool = True,
) -> None:
    """Make a run from a directory of transformers (config.json, safetensors files, the tokenizer's files) or sentence-transformers, a GGUF file, a T5X checkpoint or an adapter of PEFT.

    The run infers and exports like any other. `t2t train from:RUN --dir NEW` trains from it.

    Args:
        source: the directory with config.json, or a .gguf file of a LLaMA, Qwen 2 or 3, or Gemma 2 or 3 (needs the package gguf).
        dir: the new run's directory, which must not exist.
        preset: model (t5:1.1-small, ...) of a T5X checkpoint, in T5X's layout or the legacy layout of TensorFlow. The checkpoint does not name it.
        vocabulary: tokenizer file (.model, .txt, .json) to use instead of the directory's.
        base: the run of the model that an adapter of PEFT is for.
        frozen_storage: how the run of an adapter has the parameters of its base: a "copy", or a "reference" to the base, which must then not be moved or deleted.
        accept_option: options of config.json to ignore although t2t does not know them, one or several. Can be repeated.
        check: read the saved run back and compare every tensor, bit for bit, and the logits of a short input.

    Raises:
        UserError: the directory is not found; the model, an option or a tensor is not supported; tensors are missing; the run exists already.
    """
    line = import_checkpoint(
        source,
        dir,
        base=base,
        frozen_storage=frozen_storage,
        preset=preset,
        vocabulary=vocabulary,
        accepted=tuple(itertools.chain(*accept_option)),
        check=check,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(line)
