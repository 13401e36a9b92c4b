"""The checkpoints of a run: state, data position and metrics of a step are one unit, written in the background."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
from etils import epath
from flax.traverse_util import unflatten_dict

from t2t.checkpoint import checksums, ema, frozen, store
from t2t.checkpoint.ema import EMA
from t2t.checkpoint.frozen import PARAMS, Reference
from t2t.checkpoint.quantizing import as_floats, read_quantized
from t2t.checkpoint.retention import CheckpointConfig, expired, ranking
from t2t.checkpoint.scan import read_object
from t2t.checkpoint.tree import check, flatten, from_plain, nested, to_plain, to_plain_struct
from t2t.distributed.gather import gather
from t2t.errors import Failure, UserError, of_the_machine
from t2t.json_files import expect
from t2t.paths import check_directory
from t2t.types import Params

State = TypeVar("State")

log = logging.getLogger(__name__)

# The folders of a step. Parameters and their running means have their own folders, so that inference and fine-tuning read nothing else.
_TRAINING, _POSITION, _ABOUT = "training", "position", "about"
_METRICS_FILE = "metrics.json"
# Metrics that are added after the step was saved. Its name starts with a dot, so that it is no damage if the process ends before its checksum is written.
_EVALUATION_FILE = ".evaluation.json"
_OPTIMIZER, _FREEZE = "opt_state", ("inner_states", "trained", "inner_state")
"""Path of the optimizer state, and its inner path in older runs whose optimizer had the patterns of frozen parameters."""
_DELETED = ".deleted"
_DAMAGED = ".damaged"
_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class CheckpointError(Failure):
    """A checkpoint could not be written. Steps that were saved before it are unchanged."""


class Checkpoints:
    """The checkpoints in a directory, each in DIRECTORY/STEP/.

    A state is a dataclass that is a pytree. It has the field `params` (nested dict of arrays) and any others; leaves may be random keys. A field
    `ema` with arrays has running means of parameters. Writes run in the background, one at a time. The next call, at the latest `wait` or `close`, raises their errors. All processes must make the same
    calls; only process 0 deletes.

    Opening changes nothing on disk, so you can read a run while another process writes to it.
    """

    def __init__(self, directory: str | os.PathLike[str], config: CheckpointConfig | None = None):
        self.directory = epath.Path(os.path.abspath(check_directory(directory, "checkpoints")))
        self.config = config or CheckpointConfig()
        self._worker: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self._pending_step = -1
        self._frozen: frozenset[str] = frozenset()
        self._reference: Reference | None = None
        self._frozen_is_kept = self._frozen_is_good = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as late:
            if error is None:
                raise
            error.add_note(f"also: {late}")

    def due(self, step: int) -> bool:
        """Return whether to save a checkpoint after `step` steps."""
        return step > 0 and step % self.config.every == 0

    def save(
        self,
        step: int,
        state: Any,
        position: Mapping[str, bytes] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Start to save. Return False, and do nothing, if there is already a checkpoint of that step.

        Waits for the previous save. Returns when the arrays are copied from the devices: the state may then be donated.

        position: one entry for each virtual shard of the data that this process reads. Names must differ between processes.
        metrics:  the metrics of this step, with the one that selects the best checkpoint.
        Raises CheckpointError if this save cannot start, or if the previous one failed.
        """
        self.wait()
        entries = dict(position or {})
        for name in entries:
            if not _ENTRY.fullmatch(name):
                raise ValueError(f"position entry {name!r}: the name must be a valid file name")
        if step in store.committed(self.directory):
            return False
        files: dict[str, dict[str, bytes]] = {
            _POSITION: entries,
            _ABOUT: {},
        }
        if jax.process_index() == 0:
            files[_ABOUT][_METRICS_FILE] = _numbers(metrics or {}).encode()
        try:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
                self._clear_leftovers()
            trees = _trees(nested(state, to_plain))
            trees[PARAMS] = self._without_frozen(trees[PARAMS])
            write = store.start_write(self.directory / str(step), trees, files)
        except Exception as error:
            raise self._failure(step, error) from error
        self._pending, self._pending_step = self._worker.submit(self._finish, step, write), step
        return True

    def keep_apart(self, paths: Collection[str], reference: Reference | None = None) -> None:
        """Store the parameters of these paths, which never change, only once: as a copy, or as `reference`. It is written with the first step."""
        self._frozen, self._reference = frozenset(paths), reference

    def checksum(self, step: int) -> str:
        """Return the checksum of the parameters of a step, for a `Reference`."""
        return frozen.checksum_of(self._path(step))

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to a step that was saved without them, and delete checkpoints that are no longer kept. Call this on all processes.

        Waits for the save. If the process ends during the call, the step is complete, with or without the metrics.
        """
        path = self._path(step)
        if jax.process_index() != 0:
            return
        name = f"{_ABOUT}/{_EVALUATION_FILE}"
        try:
            partial = path / f"{name}.partial"
            partial.write_text(_numbers(metrics))
            partial.replace(path / name)
            checksums.add(path, name)
            self._delete_expired()
        except Exception as error:
            raise self._failure(step, error) from error

    def restore(self, step: int, abstract_state: State) -> State:
        """Return the saved state, bit for bit, with the shardings and dtypes of `abstract_state`.

        abstract_state: the state with a jax.ShapeDtypeStruct, with a sharding, for each array.
        Raises UserError if the state does not fit (the message names the parameter and both shapes) or is damaged (it names the file).
        """
        path = self._path(step)
        wanted = _trees(nested(abstract_state, to_plain_struct))
        check(frozen.shapes(path), wanted[PARAMS], what="parameter", where=path)
        stored = store.shapes(path, _TRAINING)
        older = _FREEZE[1] in stored.get(_OPTIMIZER, {}).get(_FREEZE[0], {})
        asked = _in_older_layout(wanted[_TRAINING]) if older else wanted[_TRAINING]
        check(stored, asked, what="training state", where=path)
        training = store.read(path, _TRAINING, asked)
        if EMA in wanted:
            check(store.shapes(path, EMA), wanted[EMA], what="running mean", where=path)
            training[EMA] = store.read(path, EMA, wanted[EMA])
        if older:
            training[_OPTIMIZER] = functools.reduce(lambda tree, name: tree[name], _FREEZE, training[_OPTIMIZER])
        return from_plain(abstract_state, {**training, "params": frozen.read(path, wanted[PARAMS])})

    def restore_params(
        self,
        step: int,
        abstract_params: Params | None = None,
        *,
        partial: bool = False,
        plain: bool = False,
        quantize: str = "none",
    ) -> Params:
        """Return only the parameters, without reading optimizer state. If the step has running means, these are the parameters.

        abstract_params: nested dict of jax.ShapeDtypeStruct with shardings. None reads all parameters as they were saved, on one device.
        partial:         allow other parameters in the checkpoint. They are not read.
        plain:           read the trained parameters, not their running means.
        quantize:        format in which kernels are quantized that `abstract_params` has quantized, and the checkpoint as floats.
        Raises UserError like `restore`.
        """
        path = self._path(step)
        stored = frozen.shapes(path)
        wanted = nested(stored if abstract_params is None else abstract_params, to_plain_struct)
        read = functools.partial(frozen.read if plain else ema.read, path)
        floats = as_floats(wanted, stored)
        check(stored, wanted if quantize == "none" else floats, what="parameter", where=path, partial=partial)
        return read(wanted) if quantize == "none" else read_quantized(read, wanted, stored, quantize)

    def param_shapes(self, step: int) -> Params:
        """Return a nested dict with the jax.ShapeDtypeStruct of each saved parameter."""
        return frozen.shapes(self._path(step))

    def restore_position(self, step: int) -> dict[str, bytes]:
        """Return the data position: the entries of all processes. Raises UserError, which names the file, if it is damaged."""
        folder = self._path(step) / _POSITION
        if not folder.is_dir():
            raise UserError(f"{folder}: the checkpoint is damaged, the data position is missing")
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}

    def metrics(self, step: int) -> dict[str, float]:
        """Return the metrics of a step. Raises UserError, which names the file, if they are damaged."""
        return _read_metrics(self._path(step))

    def steps(self) -> list[int]:
        """Return the complete steps, which have their checksums, in ascending order."""
        self._raise_failed()
        return list(self._finished())

    def damage(self, step: int, *, params_only: bool = False) -> list[str]:
        """Return one line for each damaged file of a step, with its path. Reads all files.

        With several processes, each reads a part of the files, and all return the same lines. Raises Failure on all if a file cannot be read at
        the moment, and UserError if the frozen part is damaged: then no step is usable.
        """
        if not self._frozen_is_good:
            frozen.check(self.directory)
            self._frozen_is_good = True
        path = store.committed(self.directory)[step]
        return frozen.damage_on_all(path, (PARAMS, EMA) if params_only else None)

    def newest_good(self, log: Callable[[str], None], *, params_only: bool = False) -> int | None:
        """Return the newest step whose checksums match, or None if no step was saved. `log` gets a line for each damaged step.

        Changes nothing on disk. Raises UserError if there are steps but none is good, and Failure if one cannot be read at the moment: it may be good.
        """
        self._raise_failed()
        steps = sorted(store.committed(self.directory), reverse=True)
        for step in steps:
            found = self.damage(step, params_only=params_only)
            if not found:
                return step
            log(f"{found[0]}{f' (and {len(found) - 1} more)' if len(found) > 1 else ''}")
        if any(checksums.is_sealed(store.committed(self.directory)[step]) for step in steps):
            raise UserError(f"{self.directory}: all checkpoints are damaged ({', '.join(map(str, steps))})")
        return None

    def set_aside(self, after: int | None) -> list[str]:
        """Rename the steps after `after` (None: all steps), which are damaged or incomplete. Return their new paths.

        The resumed run needs their names to save these steps again. Call this on all processes.
        """
        later = {s: path for s, path in store.committed(self.directory).items() if after is None or s > after}
        moved = []
        for path in later.values():
            other = path.with_name(f"{path.name}{_DAMAGED}")
            if jax.process_index() == 0:
                if other.exists():
                    other.rmtree()
                path.rename(other)
            moved.append(str(other))
        gather("checkpoints are set aside")
        return moved

    def latest(self) -> int | None:
        """Return the newest step, or None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Return the best step by the configured metric, or None if no step has it."""
        order = ranking({step: self.metrics(step) for step in self.steps()}, self.config)
        return order[0] if order else None

    def wait(self) -> None:
        """Wait until the current save is complete and expired checkpoints are deleted. Raises CheckpointError if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except Exception as error:
                raise self._failure(self._pending_step, error) from error

    def close(self) -> None:
        """Wait, and end the background thread. Raises CheckpointError if the last save failed."""
        try:
            self.wait()
        finally:
            if self._worker is not None:
                self._worker.shutdown()
                self._worker = None

    def _without_frozen(self, params: Params) -> Params:
        """Return the parameters that are stored with each step, and make sure that the frozen ones are stored."""
        if not self._frozen:
            return params
        flat = flatten(params)
        if not self._frozen_is_kept:
            # If there is no step yet, a stored frozen part is left from a run that was interrupted at its start.
            if not frozen.is_kept(self.directory) or not self._finished():
                if self._reference is None:
                    frozen_params = {name: leaf for name, leaf in flat.items() if name in self._frozen}
                    frozen.keep_copy(self.directory, unflatten_dict(frozen_params, sep="/"))
                else:
                    frozen.keep_reference(self.directory, self._reference)
            self._frozen_is_kept = True
        return unflatten_dict({name: leaf for name, leaf in flat.items() if name not in self._frozen}, sep="/")

    def _path(self, step: int) -> epath.Path:
        if step == self._pending_step:
            self.wait()
        self._raise_failed()
        paths = self._finished()
        if step in paths:
            return paths[step]
        if not paths:
            raise UserError(f"{self.directory}: there is no checkpoint")
        near = sorted(paths, key=lambda other: abs(other - step))[:3]
        raise UserError(
            f"{self.directory}: there is no checkpoint of step {step}. Nearest: {', '.join(map(str, near))}."
        )

    def _finished(self) -> dict[int, epath.Path]:
        found = store.committed(self.directory)
        return {step: path for step, path in found.items() if checksums.is_sealed(path)}

    def _raise_failed(self) -> None:
        if self._pending is not None and self._pending.done():
            self.wait()

    def _failure(self, step: int, error: Exception) -> CheckpointError:
        reason = of_the_machine(error) or str(error).strip().split("\n")[0] or type(error).__name__
        return CheckpointError(f"{self.directory / str(step)}: the checkpoint could not be written ({reason})")

    def _finish(self, step: int, write: store.Pending) -> None:
        write.result()
        path = store.committed(self.directory)[step]
        checksums.seal(path, process=jax.process_index(), processes=jax.process_count())
        if jax.process_index() != 0:
            return
        checksums.wait_for_seal(path)  # delete old checkpoints only when the new one is complete
        self._delete_expired()

    def _delete_expired(self) -> None:
        # Do not rank or delete directories of other programs.
        ours = {s: p for s, p in self._finished().items() if (p / _ABOUT / _METRICS_FILE).exists()}
        metrics = {}
        for step, place in ours.items():
            try:
                metrics[step] = _read_metrics(place)
            except UserError as error:
                log.warning("%s; the step is kept", error)
        for step in expired(metrics, self.config):
            _delete(ours[step])

    def _clear_leftovers(self) -> None:
        """Remove partial directories of killed runs. Only at the first save: a reader must not remove the directory of a running save."""
        if jax.process_index() == 0 and self.directory.is_dir():
            for path in [*store.leftovers(self.directory), *self.directory.glob(f"*{_DELETED}")]:
                path.rmtree()


def _trees(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    apart = {name: state[name] for name in (PARAMS, EMA) if name in state}
    return {**apart, _TRAINING: {name: value for name, value in state.items() if name not in apart}}


def _in_older_layout(training: dict[str, Any]) -> dict[str, Any]:
    older = functools.reduce(lambda tree, name: {name: tree}, reversed(_FREEZE), training[_OPTIMIZER])
    return {**training, _OPTIMIZER: older}


def _numbers(metrics: Mapping[str, float]) -> str:
    return json.dumps({name: float(value) for name, value in metrics.items()}, indent=2) + "\n"


def _read_metrics(path: epath.Path) -> dict[str, float]:
    added = path / _ABOUT / _EVALUATION_FILE
    return {**_read_numbers(path / _ABOUT / _METRICS_FILE), **(_read_numbers(added) if added.exists() else {})}


def _read_numbers(file: epath.Path) -> dict[str, float]:
    if not file.exists():
        raise UserError(f"{file}: the file is missing: not a checkpoint of this program, or damaged")
    where = f"{file}: the checkpoint is damaged"
    return {name: float(expect(value, float, where)) for name, value in read_object(file).items()}


def _delete(path: epath.Path) -> None:
    # Rename it first, so that an interrupted deletion does not leave a partial checkpoint with the name of a step.
    path.rename(path.with_name(path.name + _DELETED)).rmtree()
