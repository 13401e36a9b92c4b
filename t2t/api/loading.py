"""`t2t.load`: load a run, or import a model of another library as a run."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from t2t.api.run import Run
from t2t.api.session import cache_directory, prepare
from t2t.errors import UserError
from t2t.train.run import RECORD

log = logging.getLogger(__name__)


def load(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    plain_weights: bool = False,
    quantize: str = "none",
    dir: str | os.PathLike[str] | None = None,
    imports: Sequence[str] = (),
    trust_code: bool = False,
) -> Run:
    """Return a run.

    Args:
      path: a run's directory, or a model to import: a directory of Hugging Face transformers (config.json, safetensors) or a GGUF file.
      step: the checkpoint of a run. The default is the newest.
      plain_weights: use the trained parameters of a run that keeps a running mean of them (`Experiment.ema`), instead of the mean.
      quantize: format in which the kernels of linear layers are quantized when they are read: "nf4", "int8", "int8_groups", "int4", "int4_groups".
      dir: for an imported model, the directory of the new run. The default is a directory in the user's cache, which is reused
        until the model's files change.
      imports: modules and files that register your own tasks or configuration classes.
      trust_code: run the code that the run keeps. Use it only for runs of people you trust.

    Raises:
      UserError: the run, checkpoint, model or format is not found; a run needs code that is neither imported nor trusted; an option or a tensor
        of a model is not supported.
    """
    prepare()
    from t2t.api.user_code import imports as own
    from t2t.api.user_code import run_code
    from t2t.nn.weights import checked_format
    from t2t.paths import check

    known = checked_format(quantize, option="quantize")
    place = check(os.fspath(path), "path")
    with run_code.trusting(trust_code):
        own.use(imports, option="imports")
        if _is_to_import(place):
            if step is not None:
                raise UserError(f"step {step}: {place} is a model to import, which has no steps. Nearest: None.")
            return Run.load(_imported(place, dir), quantize=known)
        if dir is not None:
            raise UserError(f"dir {os.fspath(dir)}: it is for models that are imported, and {place} is not one.")
        run_code.ready(place)
        return Run.load(place, step, plain_weights=plain_weights, quantize=known)


def as_run(path: str) -> Path:
    """Return the directory of a run, or that of the run that a model is imported to, in the user's cache."""
    from t2t.paths import check

    place = check(path, "RUN")
    return _imported(place, None) if _is_to_import(place) else place


def _is_to_import(place: Path) -> bool:
    """Return whether a path is a model of another library."""
    named = place.suffix == ".gguf" or any((place / name).is_file() for name in ("config.json", "modules.json"))
    return named and not (place / RECORD).is_file()


def _imported(source: Path, dir: str | os.PathLike[str] | None) -> Path:
    """Import a model and return the run's directory: `dir`, or a directory in the user's cache."""
    from t2t.api.importing import import_checkpoint

    def say(line: str) -> None:
        log.info("%s", line)

    if dir is not None:
        import_checkpoint(str(source), os.fspath(dir), say=say)
        return Path(dir)
    if not source.exists():
        raise UserError(f"{source} (path): no such file or directory.")
    kept = cache_directory() / "imported" / _fingerprint(source)
    if not (kept / RECORD).is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=kept.parent))
        try:
            import_checkpoint(str(source), str(draft / "run"), say=say)
            if not (kept / RECORD).is_file():  # another process may have finished first
                (draft / "run").rename(kept)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return kept


def _fingerprint(source: Path) -> str:
    """Return a name that changes if the names, sizes or modification times of a model's files change."""
    beneath = "*/*" if (source / "modules.json").is_file() else "*"
    files = sorted({*source.iterdir(), *source.glob(beneath)}) if source.is_dir() else [source]
    digest = hashlib.sha256(str(source.resolve()).encode())
    for file in files:
        found = file.stat()
        digest.update(f"\0{file.name}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    return f"{source.stem[:40]}-{digest.hexdigest()[:16]}"
