"""Read compressed files.

Compressed files do not support random access, so each one is unpacked once, into the cache directory. Blocks, shards and saved
positions are those of the unpacked file.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import logging
import lzma
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from t2t.errors import UserError, writing
from t2t.tasks.cache import cache_directory

log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_TAR = slice(257, 262)


def _zstd(path: str) -> BinaryIO:
    import pyarrow as pa

    return cast(BinaryIO, pa.input_stream(path, compression="zstd"))


def _opener(module: Any) -> Callable[[str], BinaryIO]:
    return lambda path: cast(BinaryIO, module.open(path, "rb"))


_OPENERS: Mapping[str, tuple[bytes, Callable[[str], BinaryIO]]] = {
    "gzip": (b"\x1f\x8b\x08", _opener(gzip)),
    "xz": (b"\xfd7zXZ\0", _opener(lzma)),
    "zstd": (b"\x28\xb5\x2f\xfd", _zstd),
}


def open_unpacked(path: str) -> BinaryIO:
    """Open a file. A compressed file (gzip, bzip2, xz, zstd) is unpacked; its content decides, not its name.

    Raises:
      UserError: the file cannot be read, is damaged, or is an archive.
      OSError: no space for the unpacked file.
    """
    stream = _open_plain(path)
    name = _compression(stream.read(10))
    stream.seek(0)
    if name is None:
        return stream
    stream.close()
    if name == "zip":
        raise UserError(
            f"{path}: zip files cannot be read; unpack the file first. Supported compressions: gzip, bzip2, xz, zstd."
        )
    return _open_plain(_unpacked_copy(path, name))


def _compression(head: bytes) -> str | None:
    if head[:3] == b"BZh" and head[4:] == b"1AY&SY":
        return "bzip2"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    return next((name for name, (magic, _) in _OPENERS.items() if head.startswith(magic)), None)


def _open_plain(path: str) -> BinaryIO:
    try:
        return open(path, "rb", buffering=_CHUNK)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None


def _unpacked_copy(path: str, name: str) -> str:
    """Return the path of the unpacked copy. Create it if it is missing, and delete copies of earlier contents."""
    stat = os.stat(path)
    key = hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:32]
    directory = cache_directory() / "unpacked"
    directory.mkdir(exist_ok=True)
    target = directory / f"{key}-{stat.st_size}-{stat.st_mtime_ns}"
    if target.exists():
        return str(target)
    log.warning("%s: unpacking (%s) once to %s", path, name, target)
    for earlier in directory.glob(f"{key}-*"):
        if not earlier.name.endswith(".partial"):
            earlier.unlink(missing_ok=True)
    partial = Path(f"{target}.{os.getpid()}.partial")
    try:
        _unpack(path, name, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return str(target)


def _unpack(path: str, name: str, out: Path) -> None:
    import pyarrow as pa

    open_stream = _opener(bz2) if name == "bzip2" else _OPENERS[name][1]
    first = True
    with writing(out), out.open("wb") as output:
        try:
            stream = open_stream(path)
            while chunk := _read(stream, path, name):
                if first and chunk[_TAR] == b"ustar":
                    raise UserError(f"{path}: archives (tar) cannot be read; unpack the file first.")
                first = False
                output.write(chunk)
        except pa.ArrowException as error:
            raise _damaged(path, name, error) from None
    if first:
        raise UserError(f"{path}: is empty after unpacking ({name}).")


def _read(stream: BinaryIO, path: str, name: str) -> bytes:
    try:
        return stream.read(_CHUNK)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(path, name, error) from None
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
        raise _damaged(path, name, error) from None


def _damaged(path: str, name: str, error: BaseException) -> UserError:
    return UserError(f"{path}: is damaged or truncated ({name}): {' '.join(str(error).split())}.")
