"""Inputs of `t2t infer`: texts or conversations from the command line, text lines or JSON lines."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from t2t.api.lengths import Name
from t2t.errors import UserError, nearest
from t2t.json_files import NotJson, json_value

_JSON = (".jsonl", ".json")
"""Suffixes of files of JSON lines."""


def texts_of(texts: Sequence[str], seconds: Sequence[str], path: str | None) -> tuple[list[dict[str, Any]], Name]:
    """Return an object with "inputs" for each text, and a function that names the i-th text in errors.

    Raises UserError if there is no text, a file cannot be read, or a line is neither text nor an object with a text.
    """
    if len(seconds) not in (0, len(texts)):
        raise UserError(f"--second is given {len(seconds)} times and --text {len(texts)}; give one for each --text.")
    if path is None:
        if not texts:
            raise UserError('t2t infer: the text is missing; give --text "..." or --input FILE.')
        found = [{"inputs": text} for text in texts]
        if seconds:
            found = [{**row, "second": second} for row, second in zip(found, seconds, strict=True)]
        return found, lambda i: f"text {i + 1} (--text)"
    if texts:
        raise UserError(f"--text and --input {path} are both given; give one of them.")
    where = "standard input" if path == "-" else path
    rows = _read(path, where, _object)
    if not rows:
        raise UserError(f"{where} (--input) has no text.")
    return [row for _, row in rows], lambda i: f"{where}:{rows[i][0]}"


def conversations_of(texts: Sequence[str], path: str | None) -> tuple[list[dict[str, Any]], Name]:
    """Return an object with "messages" for each conversation, and a function that names the i-th in errors. A text is one user message.

    Raises UserError like `texts_of`.
    """
    if path is None or texts or not path.endswith(_JSON):
        rows, name = texts_of(texts, (), path)
        return [{"messages": [user_message(row["inputs"])]} for row in rows], name
    lines = _read(path, path, _conversation)
    if not lines:
        raise UserError(f"{path} (--input) has no conversation.")
    return [row for _, row in lines], lambda i: f"{path}:{lines[i][0]}"


def user_message(text: str) -> dict[str, str]:
    """Return a message of the user."""
    return {"role": "user", "content": text}


def _read(path: str, where: str, parse: Callable[[str, str], dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Return each line's number and row. An empty line counts as a text; in JSON lines it is skipped."""
    if path == "-" and sys.stdin is None:
        raise UserError("standard input (--input -) is closed. Nearest: --input FILE.")
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{where} (--input) cannot be read: {error.strerror}.") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{where} (--input) is text in UTF-16 (or UTF-32). Nearest: the same text saved as UTF-8.")
    content = content.removeprefix(codecs.BOM_UTF8)  # Windows programs write it
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), start=1):
        try:
            line = raw.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}:{number}: not UTF-8 text (byte {error.start} of the line).") from None
        if not path.endswith(_JSON):
            rows.append((number, {"inputs": line}))
        elif line.strip():
            rows.append((number, parse(line, f"{where}:{number}")))
    return rows


def _object(line: str, where: str) -> dict[str, Any]:
    row = _fields(line, where, "inputs")
    if not isinstance(row["inputs"], str):
        raise UserError(f"{where}: the field 'inputs' is {type(row['inputs']).__name__}, not text.")
    for name in ("inputs", "second"):
        if isinstance(row.get(name), str):
            _check_text(row[name], f"{where}: the field {name!r}")
    return row


def _conversation(line: str, where: str) -> dict[str, Any]:
    return _fields(line, where, "messages")


def _fields(line: str, where: str, needed: str) -> dict[str, Any]:
    try:
        row = json_value(line)
    except NotJson as error:
        raise UserError(f"{where}: the line is not a JSON object ({error}).") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, not {type(row).__name__}.")
    if needed not in row:
        raise UserError(f"{where}: no field {needed!r}.{nearest(needed, row)}")
    return row


def _check_text(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} is not valid text (character {error.start}, {text[error.start]!r}, is an unpaired surrogate)."
        ) from None
