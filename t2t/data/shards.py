"""Read one virtual shard: make rows of its examples, and save and restore its exact position."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from t2t.data.blocks import BLOCK, blocks, stacked
from t2t.data.converters import Example, FeatureConverter, Row
from t2t.data.packing import Packer
from t2t.data.places import Place, from_bytes, to_bytes
from t2t.data.sources import options
from t2t.errors import UserError

_log = logging.getLogger(__name__)

_MAX_WITHOUT_TARGET = 100_000
"""If this many examples from the start have no target, give up with an error."""


@dataclass(kw_only=True)
class Counts:
    """Numbers of examples so far.

    examples: examples read, including the trimmed and empty ones.
    trimmed:  examples truncated to fit their row.
    empty:    examples dropped because they have no target.
    """

    examples: int = 0
    trimmed: int = 0
    empty: int = 0


class ShardReader:
    """Rows of one virtual shard. Not thread-safe."""

    def __init__(self, make: Callable[[], tf.data.Dataset], layout: FeatureConverter, *, pack: bool, name: str) -> None:
        self._make = make
        self._dataset = self._blocks_of(make())
        self._iterator: Any = iter(self._dataset)
        self._layout = layout
        self._name = name
        self._packer = Packer(layout, pack=pack)
        self._blocks = 0
        self._waiting: deque[tuple[Example, bool]] = deque()  # with whether it was truncated
        self._ready: deque[Row] = deque()
        self._ended = False
        self._first_block: Future[Any] | None = None
        self.counts = Counts()

    def start(self) -> None:
        """Start to read in a thread, because a shuffle buffer must be filled first. `take` raises the thread's errors."""
        iterator, future = self._iterator, Future[Any]()

        def read_first_block() -> None:
            try:
                future.set_result(next(iterator, None))
            except BaseException as error:
                future.set_exception(error)

        self._first_block = future
        # Not a pool: Python waits for pool threads at exit, and this one may search forever in a shard without examples.
        threading.Thread(target=read_first_block, name="t2t-first", daemon=True).start()

    def take(self, number: int) -> list[Row]:
        """Return the next `number` rows, or fewer at the end of the source."""
        while len(self._ready) < number and not self._ended:
            self._fill()
        return [self._ready.popleft() for _ in range(min(number, len(self._ready)))]

    def give_back(self, rows: Sequence[Row]) -> None:
        """Put rows back. The next `take` returns them again."""
        self._ready.extendleft(reversed(rows))

    def save(self, pending: Sequence[Row], identity: dict[str, Any], batches: int = 0) -> bytes:
        """Return the position of the shard as a zip archive.

        pending:  taken rows that count as not taken.
        identity: settings of the data. `load` compares them.
        batches:  number of batches made of the rows, for `load` to return.
        """
        if self._first_block is not None:
            self._receive()
        with tempfile.TemporaryDirectory() as directory:
            files = _checkpoint(self._iterator, Path(directory)) if self._iterator is not None else {}
        place = Place(
            identity=identity,
            blocks=self._blocks,
            ended=self._ended,
            counts=asdict(self.counts),
            ready=[*pending, *self._ready],
            opened=self._packer.rows,
            waiting=list(self._waiting),
            files=files,
            batches=batches,
        )
        return to_bytes(place, self._layout)

    def load(self, place: bytes, identity: dict[str, Any]) -> int:
        """Go to a position that `save` returned, and return its `batches`.

        Raises:
          UserError: the position is damaged or belongs to different data.
        """
        found = from_bytes(place, self._layout, f"data position of {self._name}")
        saved = found.identity
        for name, value in identity.items():
            if saved.get(name) != value:
                raise UserError(
                    f"data position of {self._name} was saved with {name}={saved.get(name)!r}, this run has {value!r}. "
                    f"Nearest: {saved.get(name)!r}."
                )
        self._ready, self._packer.rows = deque(found.ready), found.opened
        self._waiting = deque(found.waiting)
        self._first_block = None
        self._blocks, self._ended, self.counts = found.blocks, found.ended, Counts(**found.counts)
        if self._ended:
            self._iterator = None
        elif found.files:
            self._iterator = _restored(self._dataset, found.files, self._name)
        else:
            _log.info("%s: replaying %d blocks of %d examples", self._name, self._blocks, BLOCK)
            # Build the dataset again: for its shuffling, a second iterator over the same dataset is the second epoch.
            self._dataset = self._blocks_of(self._make())
            self._iterator = iter(self._dataset)
            for drawn in range(self._blocks):
                if next(self._iterator, None) is None:
                    raise UserError(
                        f"data position of {self._name} is after block {self._blocks} of the task, which now has only {drawn} blocks."
                    )
        return found.batches

    @staticmethod
    def _blocks_of(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return blocks(dataset).prefetch(2).with_options(options())

    def _fill(self) -> None:
        """Add one more example to the rows, if there is one."""
        if not self._waiting:
            self._receive()
            if self._ended:
                return
        example, trimmed = self._waiting.popleft()
        self.counts.examples += 1
        self.counts.trimmed += trimmed
        if self._layout.predicts(example):
            self._ready.extend(self._packer.add(example))
            return
        self.counts.empty += 1
        if self.counts.empty == self.counts.examples == _MAX_WITHOUT_TARGET:
            raise UserError(f"{self._name}: none of the first {_MAX_WITHOUT_TARGET} examples has a target.")

    def _receive(self) -> None:
        """Read the next block of examples. At the end of the source, finish the open rows."""
        block = next(self._iterator, None) if self._first_block is None else self._first_block.result()
        self._first_block = None
        if block is None:
            self._ended, self._iterator = True, None
            self._ready.extend(self._packer.flush())
            return
        self._blocks += 1
        self._waiting.extend(self._layout.fit_all(*stacked(block, self._layout.features)))


def _checkpoint(iterator: Any, directory: Path) -> dict[str, bytes]:
    """Return the files of the iterator's state, or {} if a part of it, such as a Python generator, cannot be saved.

    Without files, `ShardReader.load` reads the blocks again. This is as slow as the source, and exact if the source is deterministic.
    """
    try:
        tf.train.Checkpoint(iterator=iterator).write(str(directory / "iterator"))
    except (tf.errors.UnimplementedError, tf.errors.FailedPreconditionError, tf.errors.InvalidArgumentError):
        return {}
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def _restored(dataset: tf.data.Dataset, files: Mapping[str, bytes], name: str) -> Any:
    iterator = iter(dataset)
    with tempfile.TemporaryDirectory() as directory:
        for file, content in files.items():
            (Path(directory) / file).write_bytes(content)
        try:
            tf.train.Checkpoint(iterator=iterator).read(str(Path(directory) / "iterator")).assert_consumed()
        except (tf.errors.OpError, AssertionError, ValueError, RuntimeError) as error:
            reason = error.message if isinstance(error, tf.errors.OpError) else str(error)
            raise UserError(
                f"data position of {name} does not fit the task as it is registered now ({(reason.splitlines() or ['no reason given'])[0]})."
            ) from error
    return iterator
