"""`t2t import`: a model of `transformers`, or a T5X checkpoint, becomes a run."""

from __future__ import annotations

import itertools
import sys
from typing import Annotated

import tyro

from t2t.api.importing import import_checkpoint
from t2t.paths import LocalPath


def import_model(
    source: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    *,
    dir: LocalPath,
    preset: str | None = None,
    vocabulary: LocalPath | None = None,
    accept_option: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = (),
    check: bool = True,
) -> None:
    """Make a run of a directory of transformers (config.json, safetensors, one file or several, the tokenizer's files), or of a GGUF file.

    The run infers and exports like any other; `t2t train from:RUN --dir NEW` goes on from it.

    Args:
        source: the directory with config.json, or a .gguf file of a LLaMA (needs the package gguf).
        dir: the run's directory, which must not be there yet.
        preset: the model (t5:1.1-small, ...) of a T5X checkpoint, its own layout or the legacy one of TensorFlow, neither of which says it.
        vocabulary: a tokenizer file (.model, .txt, .json) in place of the directory's.
        accept_option: options of config.json to pass over though they are not known here, one or several; may be given again.
        check: read the saved run back and compare every tensor, bit for bit, and the logits of a short input.

    Raises:
        UserError: no such directory; a model, an option or a tensor there is no place for; tensors missing; the run is there already.
    """
    line = import_checkpoint(
        source,
        dir,
        preset=preset,
        vocabulary=vocabulary,
        accepted=tuple(itertools.chain(*accept_option)),
        check=check,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(line)
