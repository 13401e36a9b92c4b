"""A run's checkpoints: state, data position and metrics as one unit a step, written while training goes on."""

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

from t2t.checkpoint import checksums, frozen, store
from t2t.checkpoint.frozen import PARAMS, Reference
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

# The folders of a step. Parameters lie apart, so that inference and fine-tuning read nothing else.
_TRAINING, _POSITION, _ABOUT = "training", "position", "about"
_METRICS_FILE = "metrics.json"
# Metrics that came after the step was saved. Its name begins with a dot: a process that ends before it is in the checksums leaves no damage.
_EVALUATION_FILE = ".evaluation.json"
_OPTIMIZER, _FREEZE = "opt_state", ("inner_states", "trained", "inner_state")
"""Where the optimizer's state lies, and beneath it in runs that were told what to freeze by their optimizer."""
_DELETED = ".deleted"
_DAMAGED = ".damaged"
_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class CheckpointError(Failure):
    """A checkpoint could not be written. The steps saved before it are untouched."""


class Checkpoints:
    """The checkpoints in a directory, DIRECTORY/STEP/ each.

    A state is a dataclass that is a pytree and has the fields `params` (nested dict of arrays) and any others; random keys may be
    among its leaves. Writes go on in the background, one at a time; what goes wrong there is raised by the next call, and by
    `wait` and `close` at the latest. On several processes all of them make the same calls; process 0 alone deletes.

    Opening changes nothing on disk, so a run may be read while another process writes to it.
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
            error.add_note(f"besides: {late}")

    def due(self, step: int) -> bool:
        """Return whether the configuration asks for a checkpoint after `step` steps."""
        return step > 0 and step % self.config.every == 0

    def save(
        self,
        step: int,
        state: Any,
        position: Mapping[str, bytes] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Begin to save; False, with nothing done, where there is a checkpoint of that step already.

        Returns when the arrays are copied from the devices: the state may then be donated. Waits for the save before it.

        position: one entry a virtual shard of the data that this process reads; over all processes the names differ.
        metrics:  numbers that belong to this step, among them the one to choose the best by.
        Raises CheckpointError where this save cannot begin or the one before it failed.
        """
        self.wait()
        entries = dict(position or {})
        for name in entries:
            if not _ENTRY.fullmatch(name):
                raise ValueError(f"position entry {name!r}: the name must be one of a file")
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
        """Keep the parameters of these paths, which do not change, once instead of with each step: as a copy, or where `reference` says. Written with the first step."""
        self._frozen, self._reference = frozenset(paths), reference

    def checksum(self, step: int) -> str:
        """Return the checksum of a step's parameters, for a `Reference`."""
        return frozen.checksum_of(self._path(step))

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics to a step that was saved without, and delete what is then no longer kept. To be called on all processes.

        Waits for the save. A process that ends meanwhile leaves the step whole, with or without them.
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
        """Return the state as it was saved, bit for bit, on the shardings and in the dtypes of `abstract_state`.

        abstract_state: the state with a jax.ShapeDtypeStruct, with its sharding, for each array.
        Raises UserError, naming the parameter and both shapes, where the state does not fit, and naming the file on damage.
        """
        path = self._path(step)
        wanted = _trees(nested(abstract_state, to_plain_struct))
        check(frozen.shapes(path), wanted[PARAMS], what="parameter", where=path)
        stored = store.shapes(path, _TRAINING)
        older = _FREEZE[1] in stored.get(_OPTIMIZER, {}).get(_FREEZE[0], {})
        asked = _as_frozen_once(wanted[_TRAINING]) if older else wanted[_TRAINING]
        check(stored, asked, what="training state", where=path)
        training = store.read(path, _TRAINING, asked)
        if older:
            training[_OPTIMIZER] = functools.reduce(lambda tree, name: tree[name], _FREEZE, training[_OPTIMIZER])
        return from_plain(abstract_state, {**training, "params": frozen.read(path, wanted[PARAMS])})

    def restore_params(self, step: int, abstract_params: Params | None = None, *, partial: bool = False) -> Params:
        """Return the parameters alone; no optimizer state is read.

        abstract_params: nested dict of jax.ShapeDtypeStruct with shardings; None for all as they were saved, on one device.
        partial:         the checkpoint may have parameters that are not asked for; they are not read.
        Raises UserError as `restore` does.
        """
        path = self._path(step)
        stored = frozen.shapes(path)
        wanted = nested(stored if abstract_params is None else abstract_params, to_plain_struct)
        check(stored, wanted, what="parameter", where=path, partial=partial)
        return frozen.read(path, wanted)

    def param_shapes(self, step: int) -> Params:
        """Return the nested dict of jax.ShapeDtypeStruct of the parameters as they were saved."""
        return frozen.shapes(self._path(step))

    def restore_position(self, step: int) -> dict[str, bytes]:
        """Return the data position, the entries of all processes. UserError, naming the file, on damage."""
        folder = self._path(step) / _POSITION
        if not folder.is_dir():
            raise UserError(f"{folder}: the checkpoint is damaged, the data position is missing")
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}

    def metrics(self, step: int) -> dict[str, float]:
        """Return the metrics saved with a step. UserError, naming the file, on damage."""
        return _read_metrics(self._path(step))

    def steps(self) -> list[int]:
        """Return the steps that are wholly written and have their checksums, ascending."""
        self._raise_failed()
        return list(self._finished())

    def damage(self, step: int, *, params_only: bool = False) -> list[str]:
        """Return a line, with its path, for each of a step's files that is not as it was written; reads them all.

        On several processes each reads its part, and all return what any found. Raises Failure, on all, where files cannot be read for now,
        and UserError where the frozen part is not as it was: no step is of use without.
        """
        if not self._frozen_is_good:
            frozen.check(self.directory)
            self._frozen_is_good = True
        path = store.committed(self.directory)[step]
        return frozen.damage_on_all(path, (PARAMS,) if params_only else None)

    def newest_good(self, say: Callable[[str], None], *, params_only: bool = False) -> int | None:
        """Return the newest step that is whole by its checksums, or None where no step was ever saved; `say` names what is not.

        Changes nothing on disk. Raises UserError where there are steps and none is good, Failure where one cannot be read for now: it may be good.
        """
        self._raise_failed()
        steps = sorted(store.committed(self.directory), reverse=True)
        for step in steps:
            found = self.damage(step, params_only=params_only)
            if not found:
                return step
            say(f"{found[0]}{f' (and {len(found) - 1} more)' if len(found) > 1 else ''}")
        if any(checksums.is_sealed(store.committed(self.directory)[step]) for step in steps):
            raise UserError(f"{self.directory}: none of its checkpoints is undamaged ({', '.join(map(str, steps))})")
        return None

    def set_aside(self, after: int | None) -> list[str]:
        """Rename the steps after `after` (None: all of them), which are damaged or unfinished, out of the way; return their new paths.

        They would otherwise stand where the run, gone on with, saves these steps again. To be called on all processes.
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
        """Return the newest step, or None where there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Return the best step by the configuration's metric, or None where no step was saved with it."""
        order = ranking({step: self.metrics(step) for step in self.steps()}, self.config)
        return order[0] if order else None

    def wait(self) -> None:
        """Wait until what was begun is committed and what is no longer kept is deleted. CheckpointError where it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except Exception as error:
                raise self._failure(self._pending_step, error) from error

    def close(self) -> None:
        """Wait, and end the background thread. CheckpointError where the last save failed."""
        try:
            self.wait()
        finally:
            if self._worker is not None:
                self._worker.shutdown()
                self._worker = None

    def _without_frozen(self, params: Params) -> Params:
        """Return the parameters that belong to a step, and see to it that the others are kept."""
        if not self._frozen:
            return params
        flat = flatten(params)
        if not self._frozen_is_kept:
            # Before there is a step, what is there is of a beginning that was cut off.
            if not frozen.is_kept(self.directory) or not self._finished():
                if self._reference is None:
                    apart = {name: leaf for name, leaf in flat.items() if name in self._frozen}
                    frozen.keep_copy(self.directory, unflatten_dict(apart, sep="/"))
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
        checksums.wait_for_seal(path)  # the old ones go only when the new one is whole
        self._delete_expired()

    def _delete_expired(self) -> None:
        # A directory that is not ours is neither ranked nor deleted.
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
        """Remove what killed runs left. Only at the first save: someone who only reads must not clear a running save."""
        if jax.process_index() == 0 and self.directory.is_dir():
            for path in [*store.leftovers(self.directory), *self.directory.glob(f"*{_DELETED}")]:
                path.rmtree()


def _trees(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {PARAMS: state["params"], _TRAINING: {name: value for name, value in state.items() if name != "params"}}


def _as_frozen_once(training: dict[str, Any]) -> dict[str, Any]:
    older = functools.reduce(lambda tree, name: {name: tree}, reversed(_FREEZE), training[_OPTIMIZER])
    return {**training, _OPTIMIZER: older}


def _numbers(metrics: Mapping[str, float]) -> str:
    return json.dumps({name: float(value) for name, value in metrics.items()}, indent=2) + "\n"


def _read_metrics(path: epath.Path) -> dict[str, float]:
    added = path / _ABOUT / _EVALUATION_FILE
    return {**_read_numbers(path / _ABOUT / _METRICS_FILE), **(_read_numbers(added) if added.exists() else {})}


def _read_numbers(file: epath.Path) -> dict[str, float]:
    if not file.exists():
        raise UserError(f"{file}: not a checkpoint of this program, or damaged: the file is missing")
    where = f"{file}: the checkpoint is damaged"
    return {name: float(expect(value, float, where)) for name, value in read_object(file).items()}


def _delete(path: epath.Path) -> None:
    # Renamed first: a deletion cut short must not leave half a checkpoint under a step's name.
    path.rename(path.with_name(path.name + _DELETED)).rmtree()
