"""Open and read run directories."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import jax

import t2t
from t2t import config, former_names
from t2t.adapters import Adapter
from t2t.checkpoint import Checkpoints
from t2t.distributed.gather import gather
from t2t.distributed.preflight import AgreedError
from t2t.errors import UserError, nearest
from t2t.nn.model import Model
from t2t.nn.weights import Quantize, checked_format
from t2t.optim.state_axes import abstract_params
from t2t.paths import check, check_directory
from t2t.sharding import MeshConfig
from t2t.train import own_code, run_checksums
from t2t.train.experiment import ADJUSTABLE, Experiment
from t2t.train.state import param_shardings
from t2t.types import Params
from t2t.vocabularies import Vocabulary

log = logging.getLogger(__name__)

RECORD = run_checksums.RECORD
VOCABULARY = "vocabulary"
CHECKPOINTS = "checkpoints"
LOCK = "lock"
"""The lock file of the training that is running, see `t2t.train.claim`."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of run.json: everything that is needed to rebuild the run.

    vocabulary: the task's vocabulary when the run started; its files are in the run directory.
    imports:    the user's code: names of files in RUN/code, and names of modules (in older runs: paths of files).
    code:       the files of RUN/code: relative path -> SHA-256.
    chat_template: the Jinja text of the chat template that the run learns. None if it learns none.
    """

    recipe: str
    experiment: Experiment
    vocabulary: Vocabulary
    imports: tuple[str, ...] = ()
    code: dict[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    version: str = t2t.__version__


def read_record(directory: Path) -> RunRecord:
    """Return the content of RUN/run.json.

    Raises UserError if the directory is missing or is not a run, if its record cannot be read, or if a file does not match its checksum.
    """
    path = check(directory, "RUN") / RECORD
    if not directory.is_dir():
        siblings = (
            [str(p) for p in directory.parent.iterdir() if (p / RECORD).exists()] if directory.parent.is_dir() else []
        )
        raise UserError(f"no run directory {directory}.{nearest(str(directory), siblings)}")
    if not path.is_file():
        raise UserError(f"{directory} is not a run directory: it has no {RECORD}")
    run_checksums.check(directory)
    record = config.loads(path.read_bytes(), where=str(path))
    if not isinstance(record, RunRecord):
        raise UserError(f"{path} is not the record of a run")
    return record


def open_run(directory: Path, record: RunRecord, code: Mapping[str, bytes] | None = None) -> RunRecord:
    """Create the run directory, or check that the existing one has this configuration. Return the record to use.

    A run can resume with other values of the ADJUSTABLE fields and with other user code; the newest code is kept. Any other difference raises
    UserError, which names all differences. Nothing is written then.

    code: the files of RUN/code, relative path -> content. The record has their checksums. None if there are none.
    """
    make_directory(directory)
    if (directory / RECORD).is_file() and _has_started(directory):
        old = read_record(directory)
        if not record.imports:  # nothing was imported this time: keep the stored code
            record, code = replace(record, imports=old.imports, code=old.code), None
        # The recipe and the user's code may change: `experiment` has what they produced.
        changed = config.differences(
            replace(old, version=record.version, recipe=record.recipe, imports=record.imports, code=record.code), record
        )
        # The record has the path of the run's copy of the vocabulary. `relocated` below compares the contents.
        changed = [line for line in changed if not line.startswith("vocabulary.path:")]
        fixed = [line for line in changed if not line.removeprefix("experiment.").startswith(ADJUSTABLE)]
        if fixed:
            raise UserError(
                f"{directory} (--dir) holds a run with another configuration, nothing was written; it differs in "
                f"{'; '.join(line.removeprefix('experiment.') for line in fixed)}. Use another --dir, or the same options to resume."
            )
    elif not (directory / RECORD).is_file() and (others := _unknown_files(directory)):
        raise UserError(
            f"{directory} (--dir) is not empty and is not a run: it has {others[0]} but no {RECORD}. Use another --dir."
        )
    record = replace(record, vocabulary=record.vocabulary.relocated(str(directory / VOCABULARY)))
    if code is not None:
        own_code.prepare(directory, code)
    run_checksums.write_record(directory, config.dumps(record))
    if code is not None:
        own_code.adopt(directory)
    return record


def open_run_on_all(directory: Path, record: RunRecord, code: Mapping[str, bytes] | None = None) -> RunRecord:
    """Open the run on process 0 and return its record on all processes. An error is raised on all. Call this on all processes."""
    opened, refused = record, None
    if jax.process_index() == 0:
        try:
            opened = open_run(directory, record, code)
        except UserError as error:
            refused = str(error)
    if message := gather(refused)[0]:
        raise AgreedError(message)
    return opened if jax.process_index() == 0 else read_record(directory)


def newest_step(directory: Path) -> int | None:
    """Return the step of the newest checkpoint, or None if there is no checkpoint or no run."""
    with Checkpoints(directory / CHECKPOINTS) as checkpoints:
        return checkpoints.latest()


def _has_started(directory: Path) -> bool:
    """Return whether the run has metrics or checkpoints. A run that failed before its first step may start again with other options."""
    metrics = directory / "metrics.jsonl"
    checkpoints = directory / CHECKPOINTS
    return (metrics.is_file() and metrics.stat().st_size > 0) or (checkpoints.is_dir() and any(checkpoints.iterdir()))


def _unknown_files(directory: Path) -> list[str]:
    """Return the names of the files that do not belong to a run. A training that ends before it writes run.json may leave a lock and partial files."""
    return sorted(
        path.name
        for path in directory.iterdir()
        if path.name not in (LOCK, own_code.PARTIAL, *run_checksums.PARTIALS) and not path.name.startswith(f".{LOCK}-")
    )


def make_directory(directory: Path) -> None:
    """Create the run directory if it is missing. Raises UserError if that fails."""
    check_directory(directory, "--dir")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory} (--dir) cannot be created: {error.strerror}") from None


@dataclass(frozen=True)
class SavedRun:
    """A trained run, for evaluation, inference or export.

    plain_weights: use the trained parameters of a run that keeps a running mean of them (`Experiment.ema`), instead of the mean.
    quantize: format in which kernels are quantized when they are read (`t2t.nn.weights`). "none" leaves them as the run stores them.
    kernels: paths of the kernels to quantize; None for those of all linear layers in stacks of layers.
    """

    directory: Path
    record: RunRecord
    step: int
    plain_weights: bool = False
    quantize: Quantize = "none"
    kernels: frozenset[str] | None = None

    @classmethod
    def load(
        cls,
        directory: str | Path,
        step: int | None = None,
        *,
        plain_weights: bool = False,
        quantize: Quantize = "none",
    ) -> Self:
        """Return the run with its newest checkpoint, or with that of `step`.

        Raises UserError if there is none, or like `quantized`.
        """
        directory = Path(directory)
        record = read_record(directory)
        with Checkpoints(directory / CHECKPOINTS, record.experiment.checkpoint) as checkpoints:
            steps = checkpoints.steps()
            if not steps:
                raise UserError(f"{directory} has no finished checkpoint yet")
            if step is None:
                step = checkpoints.newest_good(log.warning, params_only=True)
            elif step not in steps:
                close = min(steps, key=lambda have: abs(have - step))
                raise UserError(f"{directory} has no checkpoint of step {step} (--step). Nearest: {close}.")
            elif damage := checkpoints.damage(step, params_only=True):
                raise UserError(damage[0])
        assert step is not None, "there are finished steps"
        return cls(directory, record, step, plain_weights).quantized(quantize)

    @property
    def experiment(self) -> Experiment:
        """The configuration of the training."""
        return self.record.experiment

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, read from the copy in the run directory."""
        return self.record.vocabulary.in_directory(str(self.directory / VOCABULARY))

    @functools.cached_property
    def model(self) -> Model:
        """The model with its adapter and quantized kernels, for any platform."""
        wanted = None if self.kernels is None else self.kernels.__contains__
        return self.experiment.built(portable=True).quantized(self.quantize, wanted)

    def without_adapter(self) -> Self:
        """Return the run with the model alone. Its parameters are those that `Model.merged` of this run's model returns."""
        plain = self.without_quantization()
        return replace(plain, record=replace(plain.record, experiment=replace(plain.experiment, adapter=Adapter())))

    def quantized(self, format: str, kernels: frozenset[str] | None = None) -> Self:
        """Return the run with kernels that are quantized when they are read. kernels: their paths; None for all in stacks of layers.

        Raises UserError if the format is unknown, or if the run was trained with kernels in another one.
        """
        quantize, own = checked_format(format, option="--quantize"), self.experiment.trainable.quantize
        if quantize in ("none", own):
            return self
        if own != "none":
            raise UserError(
                f"--quantize {quantize}: {self.directory} was trained with kernels in {own} (--trainable.quantize), which cannot be quantized again."
                f" Nearest: {own}."
            )
        return replace(self, quantize=quantize, kernels=kernels)

    def without_quantization(self) -> Self:
        """Return the run with float kernels. Its parameters are those that `Model.expanded` of this run's model returns."""
        experiment = replace(self.experiment, trainable=replace(self.experiment.trainable, quantize="none"))
        return replace(self, record=replace(self.record, experiment=experiment), quantize="none")

    @property
    def has_mean(self) -> bool:
        """Whether `params` are the running means of the trained parameters."""
        return self.experiment.ema.decay is not None and not self.plain_weights

    def params(self) -> Params:
        """Read the parameters, in float32 except for quantized kernels: their running means if the run has them. They are sharded over the run's mesh, or replicated if the mesh does not fit this machine."""
        try:
            mesh = self.experiment.mesh.build()
        except UserError:
            mesh = MeshConfig().build()
        shardings = param_shardings(self.model, mesh)
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract_params(self.model.specs),  # tracing `init` takes longer
            shardings,
        )
        with Checkpoints(self.directory / CHECKPOINTS, self.experiment.checkpoint) as checkpoints:
            return checkpoints.restore_params(
                self.step,
                abstract,
                partial=self.experiment.objective.adds_parameters,
                plain=self.plain_weights,
                quantize=self.quantize,
            )


if not TYPE_CHECKING:
    __getattr__ = former_names.of(__name__)
