"""Files of conversations as a data source: JSON lines with messages and roles, of ShareGPT, or of Alpaca."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import seqio

from t2t.errors import UserError, nearest
from t2t.tasks.sources.files import Patterns
from t2t.tasks.sources.lines import LineSource
from t2t.tasks.sources.packed import open_unpacked
from t2t.tasks.sources.readers import JsonReader, Record
from t2t.tasks.sources.values import BadRecord, Fields, check_fields, display

FIELD = "messages"
"""Field of an example with its conversation: the JSON text of a list of messages."""
_KEYS: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
}
FORMATS = tuple(_KEYS)
_ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}


@dataclass(frozen=True)
class ConversationReader(JsonReader):
    """A conversation in each line. The first line of a file determines its format, unless `format` does."""

    name: ClassVar[str] = "chat"
    format: str | None = None

    def header(self, stream: BinaryIO) -> tuple[tuple[str, ...], int]:
        """Return the format of the file as its only column. Nothing is read if no line has one."""
        super().header(stream)
        start = stream.tell()
        first = next((record for record in super().records(stream, 1, (), None) if record.values is not None), None)
        stream.seek(start)
        found = None if first is None or first.values is None else format_of(first.values)
        return ((self.format or found or FORMATS[0]),), 1

    def records(self, stream: BinaryIO, line: int, header: Sequence[str], fields: Fields | None) -> Iterator[Record]:
        """Yield the conversations: the field `messages` has the JSON text of a list of messages, each with role and content."""
        for record in super().records(stream, line, header, None):
            if record.values is None:
                yield record
                continue
            try:
                messages = json.dumps(conversation(record.values, header[0]), ensure_ascii=False)
                values = {**record.values, FIELD: messages}
                yield record._replace(values=values if fields is None else check_fields(values, fields))
            except BadRecord as bad:
                yield record._replace(values=None, problem=str(bad))


def chat(
    files: Patterns | Mapping[str, Patterns],
    *,
    format: str | None = None,
    fields: Mapping[str, type] | None = None,
    held_out: float | Mapping[str, float] = 0.0,
    split_by: str | None = None,
    on_bad: str = "stop",
) -> LineSource:
    """Return a source of conversations: a JSON object in each line, for `t2t.tasks.add_chat`.

    Args:
      files: see `t2t.tasks.sources.text`.
      format: how the objects write a conversation. Default: as the first object of a file does.
        "messages": {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}. A message of the
        assistant may have "weight": 0, so that it is not learned. "sharegpt": {"conversations": [{"from": "human", "value": "..."},
        {"from": "gpt", "value": "..."}]}. "alpaca": {"instruction": "...", "input": "...", "output": "..."}.
      fields: further fields to read and their types, for metrics.
      held_out, split_by: see `t2t.tasks.sources.jsonl`.
      on_bad: what to do with a broken line or a conversation that cannot be used: "stop" with the name of file and line, or "skip" and count it.

    Raises:
      UserError: the format is unknown.
    """
    if format is not None and format not in FORMATS:
        raise UserError(f"format={format!r} of a chat source: unknown format.{nearest(format, FORMATS)}")
    declared = {FIELD: str, **(fields or {})}
    if split_by is not None:
        declared.setdefault(split_by, str)
    return LineSource(
        files, reader=ConversationReader(format), fields=declared, held_out=held_out, split_by=split_by, on_bad=on_bad
    )


def format_of(found: Mapping[str, Any]) -> str | None:
    """Return the format of an object, or None if it has the keys of none."""
    return next((name for name, keys in _KEYS.items() if all(key in found for key in keys)), None)


def conversation(found: Mapping[str, Any], format: str) -> list[dict[str, Any]]:
    """Return the messages of an object. Raises BadRecord if they are not a conversation with an answer."""
    if not all(key in found for key in _KEYS[format]):
        other = format_of(found)
        what = f"has the format {other}" if other else f"has no {' and '.join(map(repr, _KEYS[format]))}"
        raise BadRecord(f"this conversation {what}, but the file has the format {format}")
    if format == "alpaca":
        messages = _alpaca(found)
    else:
        listed = found[_KEYS[format][0]]
        if not isinstance(listed, list) or not listed:
            raise BadRecord(f"{_KEYS[format][0]!r} is {display(listed)}, expected a list of messages")
        messages = [_message(item, i) for i, item in enumerate(listed, 1)]
    if not any(message["role"] == "assistant" and message.get("weight", 1) for message in messages):
        raise BadRecord("this conversation has no turn of the assistant to learn")
    return messages


def _alpaca(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    if found.get("history"):
        raise BadRecord("field 'history' is not supported; write the conversation as 'messages'")
    texts = {}
    for key in ("system", "instruction", "input", "output"):
        texts[key] = found.get(key) or ""
        if not isinstance(texts[key], str):
            raise BadRecord(f"field {key!r} is {display(found[key])}, expected text")
    for key in ("instruction", "output"):
        if not texts[key].strip():
            raise BadRecord(f"field {key!r} is empty")
    asked = "\n\n".join(text for text in (texts["instruction"], texts["input"]) if text)
    system = [{"role": "system", "content": texts["system"]}] if texts["system"] else []
    return [*system, {"role": "user", "content": asked}, {"role": "assistant", "content": texts["output"]}]


def _message(item: Any, number: int) -> dict[str, Any]:
    """Return a message with role and content; other fields are for the template. "from" and "value" are read as ShareGPT has them."""
    where = f"message {number}"
    if not isinstance(item, dict):
        raise BadRecord(f"{where} is {display(item)}, expected an object")
    theirs = "from" in item and "role" not in item
    key, said = ("from", "value") if theirs else ("role", "content")
    names = tuple(_SHAREGPT) if theirs else _ROLES
    role, content = item.get(key), item.get(said)
    if not isinstance(role, str) or role not in names:
        known = nearest(role, names) if isinstance(role, str) else ""
        raise BadRecord(f"{where}: {key} is {display(role)}, expected one of {', '.join(names)}.{known}".rstrip("."))
    rest = {name: value for name, value in item.items() if name not in (key, said)}
    role = _SHAREGPT[role] if theirs else role
    if rest.get("weight", 1) not in (0, 1) or ("weight" in rest and role != "assistant"):
        raise BadRecord(f"{where}: weight is {display(rest['weight'])}, expected 0 or 1, for the assistant")
    if content is None and rest.get("tool_calls"):
        return {"role": role, "content": "", **rest}
    if not isinstance(content, str):
        raise BadRecord(f"{where}: {said} is {display(content)}, expected text")
    if role == "assistant" and not content.strip() and not rest.get("tool_calls"):
        raise BadRecord(f"{where}: this answer is empty")
    return {"role": role, "content": content, **rest}


def place_of(source: seqio.DataSource, messages: str) -> str | None:
    """Return "file:line" of the first conversation with this JSON text, or None if the source has no lines or it is not there."""
    if not isinstance(source, LineSource) or not isinstance(source.reader, ConversationReader):
        return None
    for split in source.patterns:
        for path in source.paths(split):
            with open_unpacked(path) as stream:
                header, line = source.reader.header(stream)
                for record in source.reader.records(stream, line, header, source.fields()):
                    if record.values is not None and record.values[FIELD] == messages:
                        return f"{path}:{record.line}"
    return None
