"""Export a run's model to a GGUF file, read it back and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from t2t import config
from t2t.api.chat import template_of
from t2t.errors import Failure
from t2t.export.directory import flatten, writing
from t2t.export.family import canonical
from t2t.export.generation_files import Generation
from t2t.export.gguf import gguf_directory
from t2t.export.gguf_models import architecture_of
from t2t.export.gguf_writing import bound, kind_of, write_gguf
from t2t.export.huggingface import opened, read_options, short_logits
from t2t.export.mapping import write_tensor
from t2t.export.token_check import TEXTS, check, marked
from t2t.export.tokenizer_files import read_vocabulary
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from t2t.train.run import SavedRun
from t2t.types import Params
from t2t.vocabularies import Tokenizer
from t2t.vocabularies.library import added

FILE = "model.gguf"


def export_gguf(
    run: SavedRun,
    params: Params,
    out: Path,
    *,
    dtype: str,
    compare: bool,
    overwrite: bool,
    say: Callable[[str], None],
) -> None:
    """Write `out`/model.gguf.

    dtype: "f16" or "q8_0".
    compare: read the file back with the import: every number within the type's rounding, the ids of texts equal.

    Raises UserError like `write_gguf`, and Failure if the file differs.
    """
    _, options, wanted = exportable(run.experiment.model)
    template = template_of(run)
    with writing(out, overwrite=overwrite) as draft:
        notes = write_gguf(
            draft / FILE,
            params,
            options,
            wanted,
            run.vocabulary,
            dtype=dtype,
            name=run.directory.resolve().name,
            chat_template=None if template is None else template.text,
        )
        for note in notes:
            say(f"note: {note}")
        if compare:
            _compare(run, params, draft / FILE, out / FILE, dtype, say)


def _compare(run: SavedRun, params: Params, file: Path, shown: Path, dtype: str, say: Callable[[str], None]) -> None:
    vocabulary = run.vocabulary
    assert isinstance(vocabulary, Tokenizer)  # `write_gguf` refuses others
    with tempfile.TemporaryDirectory(prefix="t2t-gguf-") as folder:
        directory = Path(folder)
        gguf_directory(file, directory)
        options = read_options(directory)
        architecture = architecture_of(options)
        back = Generation(directory, options).applied(read_vocabulary(directory, options, scratch=directory), "decoder")
        texts = check(
            f"{shown} (--out): the tokens",
            vocabulary.encode,
            back.encode,
            [*TEXTS, *marked(list(added(vocabulary.library()))[:400])],
        )
        if back.end_ids != vocabulary.end_ids[:3] or back.prepends_bos != vocabulary.prepends_bos:
            raise Failure(
                f"{shown} (--out): the ends are {back.end_ids}, and should be {vocabulary.end_ids}; nothing was written"
            )
        with opened(directory, family_of) as source:
            model = canonical(run.experiment.model).build()
            if changed := config.differences(model.config, canonical(source.config)):
                raise Failure(f"{shown} (--out) has another configuration: {'; '.join(changed[:4])}")
            flat, largest = flatten(params), 0.0
            for tensor in source.wanted:
                ours = np.asarray(write_tensor(tensor, flat), np.float32)
                difference = np.abs(ours.astype(np.float64) - source.read(tensor.name))
                offset = architecture.offset_of(tensor.name)
                if not (difference <= bound(ours, kind_of(ours.shape, dtype), offset)).all():
                    raise Failure(
                        f"{shown} (--out): {tensor.name} differs by {difference.max():.2e}, more than {dtype} rounds; nothing was written"
                        " (use --no-check to write it anyway)"
                    )
                largest = max(largest, float(difference.max()))
            before = short_logits(model, params)
            after = short_logits(source.model, source.params(MeshConfig().build()))
            say(
                f"check: {len(source.wanted)} tensors read back, the largest difference is {largest:.1e}, as {dtype} rounds; logits differ by at"
                f" most {np.abs(before - after).max():.1e}; ids of {texts} texts equal"
            )
