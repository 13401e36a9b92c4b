"""The frozen part of a run's parameters. It is the same in all steps, so it is kept once: as a copy, or as a reference to another run's checkpoint.

DIRECTORY/frozen/ holds the copy, DIRECTORY/frozen.json the reference, DIRECTORY/STEP/params what is trained.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.checkpoint import checksums, store
from t2t.checkpoint.scan import read_object
from t2t.distributed.gather import gather
from t2t.errors import Failure, UserError
from t2t.json_files import expect
from t2t.types import Params

PARAMS = "params"
"""The folder of a step, and of the copy, that holds parameters."""
_COPY, _REFERENCE = "frozen", "frozen.json"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Parameters that stay in another run's checkpoint.

    checkpoints: the directory of that run's checkpoints, absolute. step: which of them.
    checksum:    of that step's parameters, see `checksum_of`.
    parameters:  paths of those that are taken.
    dtype:       the type they are read in.
    """

    checkpoints: str
    step: int
    checksum: str
    parameters: tuple[str, ...]
    dtype: str

    @property
    def path(self) -> epath.Path:
        """The directory of the step."""
        return epath.Path(self.checkpoints) / str(self.step)


def is_kept(directory: epath.Path) -> bool:
    """Whether a directory of checkpoints has a frozen part that is kept apart from its steps."""
    return (directory / _COPY).exists() or (directory / _REFERENCE).exists()


def keep_copy(directory: epath.Path, params: Params) -> None:
    """Write the copy, in place of what is there. Returns when it is whole. To be called on all processes."""
    _clear(directory)
    path = directory / _COPY
    store.start_write(path, {PARAMS: params}, {}).result()
    checksums.seal(path, process=jax.process_index(), processes=jax.process_count())
    checksums.wait_for_seal(path)


def keep_reference(directory: epath.Path, reference: Reference) -> None:
    """Write the reference, in place of what is there. To be called on all processes."""
    _clear(directory)
    if jax.process_index() == 0:
        partial = directory / f".{_REFERENCE}.partial"
        partial.write_text(json.dumps(asdict(reference), indent=2) + "\n")
        partial.replace(directory / _REFERENCE)


def shapes(path: epath.Path) -> Params:
    """Return the nested dict of ShapeDtypeStruct of a step's parameters, those that are kept apart among them. path: DIRECTORY/STEP."""
    own = store.shapes(path, PARAMS)
    if (reference := _reference(path.parent)) is not None:
        theirs = flatten_dict(shapes(_located(path.parent, reference)), sep="/")
        frozen = {}
        for name in reference.parameters:
            if name not in theirs:
                raise UserError(f"{path.parent / _REFERENCE}: {reference.path} has no parameter {name}")
            frozen[name] = jax.ShapeDtypeStruct(theirs[name].shape, jnp.dtype(reference.dtype))
    elif (path.parent / _COPY).exists():
        frozen = flatten_dict(store.shapes(path.parent / _COPY, PARAMS), sep="/")
    else:
        return own
    return _nested({**frozen, **flatten_dict(own, sep="/")})


def read(path: epath.Path, abstract: Params) -> Params:
    """Return the parameters of a step for which `abstract` has a ShapeDtypeStruct, with its sharding and dtype, wherever they lie. path: DIRECTORY/STEP.

    Raises UserError where the checkpoint that is referred to is missing or another one now, and on damage. To be called on all processes.
    """
    wanted = flatten_dict(abstract, sep="/")
    own = flatten_dict(store.shapes(path, PARAMS), sep="/").keys() & wanted.keys()
    found = store.read(path, PARAMS, _nested({name: wanted[name] for name in own})) if own else {}
    rest = {name: leaf for name, leaf in wanted.items() if name not in own}
    if not rest:
        return found
    if (reference := _reference(path.parent)) is None:
        frozen = store.read(path.parent / _COPY, PARAMS, _nested(rest))
    else:
        # In the type that the run trains with, whatever type is asked for: a rounded parameter stays a rounded one.
        kept = {
            name: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(reference.dtype), sharding=leaf.sharding)
            for name, leaf in rest.items()
        }
        theirs = read(_located(path.parent, reference), _nested(kept))
        frozen = jax.tree.map(lambda leaf, as_wanted: leaf.astype(as_wanted.dtype), theirs, _nested(rest))
    return _nested({**flatten_dict(found, sep="/"), **flatten_dict(frozen, sep="/")})


def check(directory: epath.Path) -> None:
    """Compare the frozen part, where it is kept apart, with its checksums; reads all of it. To be called on all processes.

    Raises UserError, on all, naming the file or the checkpoint, where it is damaged, missing or another one now.
    """
    reference, refused = None, None
    try:
        reference = _reference(directory)
        found = None if reference is None else _located(directory, reference)
    except UserError as error:
        refused = str(error)
    if lines := [line for line in gather(refused) if line is not None]:
        raise UserError(lines[0])
    if reference is not None and found is not None:
        damage = damage_on_all(found, (PARAMS,))
        if damage:
            raise UserError(f"{damage[0]}; {directory / _REFERENCE} refers to it")
        check(found.parent)
    elif (directory / _COPY).exists() and (damage := damage_on_all(directory / _COPY, None)):
        raise UserError(damage[0])


def checksum_of(path: epath.Path) -> str:
    """Return the SHA-256 over the checksums of a step's parameters, those that are kept apart among them. path: DIRECTORY/STEP."""
    listed = {name: value for name, value in checksums.expected(path).items() if name.startswith(f"{PARAMS}/")}
    copy = path.parent / _COPY
    apart: Any = None
    if (reference := _reference(path.parent)) is not None:
        apart = reference.checksum
    elif copy.exists():
        apart = sorted(checksums.expected(copy).items())
    return hashlib.sha256(json.dumps([sorted(listed.items()), apart]).encode()).hexdigest()


def damage_on_all(path: epath.Path, folders: tuple[str, ...] | None) -> list[str]:
    """Return `checksums.damage`, each process reading its part of the files, and all returning what any found.

    Raises Failure, on all, where files cannot be read for now.
    """
    found: list[str] = []
    failed = None
    try:
        found = checksums.damage(path, folders, process=jax.process_index(), processes=jax.process_count())
    except Failure as error:
        failed = str(error)
    told = gather([found, failed])
    if reasons := [reason for _, reason in told if reason is not None]:
        raise Failure(reasons[0])
    return [line for lines, _ in told for line in lines]


def _reference(directory: epath.Path) -> Reference | None:
    file = directory / _REFERENCE
    if not file.exists():
        return None
    value = read_object(file)
    where = f"{file}: the checkpoint is damaged"
    names = expect(value.get("parameters"), list, where)
    checkpoints, dtype = expect(value.get("checkpoints"), str, where), expect(value.get("dtype"), str, where)
    if "://" in checkpoints or dtype not in ("float32", "bfloat16"):
        raise UserError(f"{where}: it refers to {checkpoints!r} in {dtype!r}")
    return Reference(
        checkpoints=checkpoints,
        step=expect(value.get("step"), int, where),
        checksum=expect(value.get("checksum"), str, where),
        parameters=tuple(expect(name, str, where) for name in names),
        dtype=dtype,
    )


def _located(directory: epath.Path, reference: Reference) -> epath.Path:
    """Return the step that is referred to. UserError where it is missing or has other parameters than it had."""
    path, file = reference.path, directory / _REFERENCE
    if not checksums.is_sealed(path):
        raise UserError(
            f"{path}: the frozen parameters of {directory.parent} are read from this checkpoint, which is missing. Put it back, or"
            f" name the place it was moved to in {file}."
        )
    if checksum_of(path) != reference.checksum:
        raise UserError(
            f"{path}: the frozen parameters of {directory.parent} are read from this checkpoint, which has changed: its checksum is not the"
            f" one in {file}. Put back the one that was there."
        )
    return path


def _clear(directory: epath.Path) -> None:
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / _COPY).exists():
            (directory / _COPY).rmtree()
        (directory / _REFERENCE).unlink(missing_ok=True)
    gather("the frozen part is cleared")


def _nested(flat: dict[str, Any]) -> Params:
    nested: Params = unflatten_dict(flat, sep="/")
    return nested
