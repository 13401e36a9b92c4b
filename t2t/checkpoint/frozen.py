"""The frozen parameters of a run. They are the same in all steps, so they are stored once: as a copy, or as a reference to another run's checkpoint.

DIRECTORY/frozen/ has the copy, DIRECTORY/frozen.json the reference, and DIRECTORY/STEP/params the trainable parameters.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.checkpoint import checksums, store
from t2t.checkpoint.quantizing import quantized_shapes, read_quantized
from t2t.checkpoint.scan import read_object
from t2t.distributed.gather import gather
from t2t.errors import Failure, UserError
from t2t.json_files import expect
from t2t.nn.weights import checked_format, kernel_of
from t2t.types import Params

PARAMS = "params"
"""The folder with the parameters, in a step and in the copy."""
_COPY, _REFERENCE = "frozen", "frozen.json"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference to parameters in a checkpoint of another run.

    checkpoints: absolute path of that run's directory of checkpoints.
    step:        step of the checkpoint.
    checksum:    checksum of the parameters of that step, see `checksum_of`.
    parameters:  paths of the parameters that are read from it.
    dtype:       dtype in which they are read.
    quantize:    format in which kernels are quantized when they are read, see `t2t.nn.weights`; "none" if they are floats here, or quantized there.
    """

    checkpoints: str
    step: int
    checksum: str
    parameters: tuple[str, ...]
    dtype: str
    quantize: str = "none"

    @property
    def path(self) -> epath.Path:
        """The directory of the step."""
        return epath.Path(self.checkpoints) / str(self.step)


def is_kept(directory: epath.Path) -> bool:
    """Return whether a directory of checkpoints has a separate frozen part."""
    return (directory / _COPY).exists() or (directory / _REFERENCE).exists()


def keep_copy(directory: epath.Path, params: Params) -> None:
    """Write the copy and replace an existing frozen part. Returns when it is complete. Call this on all processes."""
    _clear(directory)
    path = directory / _COPY
    store.start_write(path, {PARAMS: params}, {}).result()
    checksums.seal(path, process=jax.process_index(), processes=jax.process_count())
    checksums.wait_for_seal(path)


def keep_reference(directory: epath.Path, reference: Reference) -> None:
    """Write the reference and replace an existing frozen part. Call this on all processes."""
    _clear(directory)
    if jax.process_index() == 0:
        partial = directory / f".{_REFERENCE}.partial"
        partial.write_text(json.dumps(asdict(reference), indent=2) + "\n")
        partial.replace(directory / _REFERENCE)


def shapes(path: epath.Path) -> Params:
    """Return the nested dict of ShapeDtypeStruct of the parameters of a step, with the frozen ones. path: DIRECTORY/STEP."""
    trained = store.shapes(path, PARAMS)
    if (reference := _reference(path.parent)) is not None:
        theirs = flatten_dict(shapes(_located(path.parent, reference)), sep="/")
        if reference.quantize != "none":
            theirs = quantized_shapes(theirs, reference.quantize, set(reference.parameters).__contains__)
        frozen = {}
        for name in reference.parameters:
            if name not in theirs:
                raise UserError(f"{path.parent / _REFERENCE}: {reference.path} has no parameter {name}")
            dtype = theirs[name].dtype if kernel_of(name) else jnp.dtype(reference.dtype)
            frozen[name] = jax.ShapeDtypeStruct(theirs[name].shape, dtype)
    elif (path.parent / _COPY).exists():
        frozen = flatten_dict(store.shapes(path.parent / _COPY, PARAMS), sep="/")
    else:
        return trained
    return _nested({**frozen, **flatten_dict(trained, sep="/")})


def read(path: epath.Path, abstract: Params) -> Params:
    """Return the parameters of a step that are in `abstract`, with its shardings and dtypes, from the step or the frozen part. path: DIRECTORY/STEP.

    Raises UserError if the referenced checkpoint is missing or has changed, or on damage. Call this on all processes.
    """
    wanted = flatten_dict(abstract, sep="/")
    trained = flatten_dict(store.shapes(path, PARAMS), sep="/").keys() & wanted.keys()
    found = store.read(path, PARAMS, _nested({name: wanted[name] for name in trained})) if trained else {}
    rest = {name: leaf for name, leaf in wanted.items() if name not in trained}
    if not rest:
        return found
    if (reference := _reference(path.parent)) is None:
        frozen = store.read(path.parent / _COPY, PARAMS, _nested(rest))
    else:
        # Read in the dtype of the training first, for any requested dtype: rounded parameters stay rounded.
        kept = {
            name: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype if kernel_of(name) else jnp.dtype(reference.dtype), sharding=leaf.sharding
            )
            for name, leaf in rest.items()
        }
        located = _located(path.parent, reference)
        if reference.quantize == "none":
            theirs = read(located, _nested(kept))
        else:
            theirs = read_quantized(partial(read, located), _nested(kept), shapes(located), reference.quantize)
        frozen = jax.tree.map(lambda leaf, as_wanted: leaf.astype(as_wanted.dtype), theirs, _nested(rest))
    return _nested({**flatten_dict(found, sep="/"), **flatten_dict(frozen, sep="/")})


def check(directory: epath.Path) -> None:
    """Compare a separate frozen part with its checksums. Reads all of it. Call this on all processes.

    Raises UserError on all, which names the file or the checkpoint, if it is damaged, missing or has changed.
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
            raise UserError(f"{damage[0]}; {directory / _REFERENCE} refers to this checkpoint")
        check(found.parent)
    elif (directory / _COPY).exists() and (damage := damage_on_all(directory / _COPY, None)):
        raise UserError(damage[0])


def checksum_of(path: epath.Path) -> str:
    """Return the SHA-256 over the checksums of the parameters of a step, with the frozen ones. path: DIRECTORY/STEP."""
    listed = {name: value for name, value in checksums.expected(path).items() if name.startswith(f"{PARAMS}/")}
    copy = path.parent / _COPY
    frozen_part: Any = None
    if (reference := _reference(path.parent)) is not None:
        frozen_part = reference.checksum
    elif copy.exists():
        frozen_part = sorted(checksums.expected(copy).items())
    return hashlib.sha256(json.dumps([sorted(listed.items()), frozen_part]).encode()).hexdigest()


def damage_on_all(path: epath.Path, folders: tuple[str, ...] | None) -> list[str]:
    """Return `checksums.damage`. Each process reads a part of the files, and all return the same lines.

    Raises Failure on all if a file cannot be read at the moment.
    """
    found: list[str] = []
    failed = None
    try:
        found = checksums.damage(path, folders, process=jax.process_index(), processes=jax.process_count())
    except Failure as error:
        failed = str(error)
    results = gather([found, failed])
    if reasons := [reason for _, reason in results if reason is not None]:
        raise Failure(reasons[0])
    return [line for lines, _ in results for line in lines]


def _reference(directory: epath.Path) -> Reference | None:
    file = directory / _REFERENCE
    if not file.exists():
        return None
    value = read_object(file)
    where = f"{file}: the checkpoint is damaged"
    names = expect(value.get("parameters"), list, where)
    checkpoints, dtype = expect(value.get("checkpoints"), str, where), expect(value.get("dtype"), str, where)
    quantize = expect(value.get("quantize", "none"), str, where)
    checked_format(quantize, option=str(file))
    if "://" in checkpoints or dtype not in ("float32", "bfloat16"):
        raise UserError(f"{where}: it refers to {checkpoints!r} in {dtype!r}")
    return Reference(
        checkpoints=checkpoints,
        step=expect(value.get("step"), int, where),
        checksum=expect(value.get("checksum"), str, where),
        parameters=tuple(expect(name, str, where) for name in names),
        dtype=dtype,
        quantize=quantize,
    )


def _located(directory: epath.Path, reference: Reference) -> epath.Path:
    """Return the path of the referenced step. Raises UserError if it is missing or its parameters have changed."""
    path, file = reference.path, directory / _REFERENCE
    if not checksums.is_sealed(path):
        raise UserError(
            f"{path}: the frozen parameters of {directory.parent} are read from this checkpoint, which is missing. Restore it, or"
            f" write its new path to {file}."
        )
    if checksum_of(path) != reference.checksum:
        raise UserError(
            f"{path}: the frozen parameters of {directory.parent} are read from this checkpoint, which has changed: its checksum does not match"
            f" {file}. Restore the original checkpoint."
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
