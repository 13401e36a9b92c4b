"""Write and read the metrics of a run: RUN/metrics.jsonl is the record, RUN/tensorboard/ is a copy for TensorBoard."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from t2t.errors import UserError, writing
from t2t.json_files import json_value

FILE = "metrics.jsonl"
RESERVED = ("step", "time", "elapsed")
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends metrics to RUN/metrics.jsonl and RUN/tensorboard/. Only one process of a run uses it.

    A line is `{"step": int, "time": seconds since 1970, "elapsed": seconds since this writer opened, NAME: number, ...}`. JSON
    has no NaN and no infinity: the strings "nan", "inf" and "-inf" replace them.

    Args:
        run_dir: the run directory. It is created if it is missing.
        start: the step from which the run starts or resumes. Lines of later steps were written before an interruption. They are dropped, together
            with an incomplete last line, in one atomic replacement of the file. None keeps all lines.

    Raises:
        UserError: a line of the existing file, other than the last, is not a line of metrics.
    """

    def __init__(self, run_dir: str | Path, *, start: int | None = None) -> None:
        directory = Path(run_dir)
        directory.mkdir(parents=True, exist_ok=True)
        self._opened = time.monotonic()
        path = directory / FILE
        if path.exists():
            _rewind(path, start)
        self._file = path.open("a", encoding="utf-8")
        self._board = _Board(directory / "tensorboard", purge=None if start is None else start + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append the metrics of one step. `float` must accept the values. The line is flushed on return.

        Raises:
            ValueError: a name is reserved (step, time, elapsed).
        """
        taken = sorted(set(values) & set(RESERVED))
        if taken:
            raise ValueError(f"{taken[0]!r} is a field of every line of {FILE} and cannot name a metric")
        numbers = {name: float(value) for name, value in values.items()}
        now = time.time()
        line: dict[str, Any] = {
            "step": int(step),
            "time": round(now, 3),
            "elapsed": round(time.monotonic() - self._opened, 3),
        }
        line |= {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        with writing(self._file.name):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        # TensorBoard cannot show values that are not finite. metrics.jsonl has them.
        with writing(self._board.directory):
            self._board.write(int(step), now, {name: value for name, value in numbers.items() if math.isfinite(value)})

    def close(self) -> None:
        """Flush and close both files. May be called twice."""
        if not self._file.closed:
            self._file.close()
            self._board.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Board:
    """Writes TensorBoard's event file synchronously. A writer thread would hide the error of a full disk, and block the caller that waits for it.

    Events are flushed without fsync. tensorboardX's writer calls fsync at every line of the log, and the devices are idle meanwhile.

    purge: TensorBoard hides events of this step and of later steps in earlier files.
    """

    def __init__(self, directory: Path, *, purge: int | None) -> None:
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._checksum = masked_crc32c
        # TensorBoard reads files in the order of their names. The second number orders files of the same second.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{time.time_ns()}"
        self._file = (directory / name).open("xb")
        self._add(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge is not None:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(self._event(step=purge, wall_time=time.time(), session_log=started))

    def write(self, step: int, now: float, values: Mapping[str, float]) -> None:
        entries = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(self._event(step=step, wall_time=now, summary=self._summary(value=entries)))

    def _add(self, event: Any) -> None:
        """Append a TFRecord: length and data, each with a checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        parts = (length, struct.pack("<I", self._checksum(length)), data, struct.pack("<I", self._checksum(data)))
        self._file.write(b"".join(parts))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(run_dir: str | Path) -> list[dict[str, Any]]:
    """Return the lines of RUN/metrics.jsonl in the order in which they were written; [] if there is no file.

    "nan", "inf" and "-inf" become floats. An incomplete last line, left by a process that was killed, is skipped with a warning.

    Raises:
        UserError: any other line is not a line of metrics. The message has the file and the line number.
    """
    path = Path(run_dir) / FILE
    if not path.exists():
        return []
    lines, torn = _parse(path)
    if torn is not None:
        log.warning("%s: skipped the last line (line %d), which is incomplete", path, torn)
    return [line for _, line in lines]


def as_number(value: Any) -> Any:
    """Return the number of a JSON value: "nan", "inf" and "-inf" become floats, other values do not change."""
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _parse(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], int | None]:
    """Return each line as bytes and as values, and the number of the last line if it is incomplete."""
    raws = path.read_bytes().split(b"\n")
    lines: list[tuple[bytes, dict[str, Any]]] = []
    for number, raw in enumerate(raws, start=1):
        if not raw.strip():
            continue
        last = number == len(raws)  # a line without a newline: the last piece of a complete file is empty
        try:
            line = json_value(raw)
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                raise ValueError('no object with a "step"')
        except ValueError as error:
            if last:
                return lines, number
            raise UserError(f"{path}, line {number}: not a line of metrics ({error})") from error
        lines.append((raw, {name: as_number(value) for name, value in line.items()}))
    return lines, None


def _rewind(path: Path, start: int | None) -> None:
    lines, torn = _parse(path)
    kept = [raw for raw, line in lines if start is None or line["step"] <= start]
    content = b"".join(raw + b"\n" for raw in kept)
    if content == path.read_bytes():
        return
    dropped = len(lines) - len(kept)
    if dropped:
        log.info("%s: dropped %d lines after step %d, written before the run was interrupted", path, dropped, start)
    if torn is not None:
        log.warning("%s: dropped the last line (line %d), which is incomplete", path, torn)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
