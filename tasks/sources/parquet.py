"""Parquet files as a data source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from t2t.errors import UserError, cannot_be_read
from t2t.tasks.sources.files import FileSource, Index, Patterns, stamp_of
from t2t.tasks.sources.values import LISTS, BadRecord, check_fields
from t2t.tasks.splitting import split_of

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_MAX_PROBLEMS = 5


class ParquetSource(FileSource):
    """Parquet files. A block is a row group."""

    format = "Parquet"

    def _infer(self, paths: Sequence[str]) -> tuple[Mapping[str, type | None], Sequence[str]]:
        with _open(paths[0]) as file:
            found = dict(_types_of(file.schema_arrow))
            return found, list(found)

    def _rows(self, path: str, file: pq.ParquetFile, group: int, row: int) -> Iterator[dict[str, Any] | str]:
        """Yield the values of each row of a row group, or the reason why it cannot be read."""
        import pyarrow as pa

        columns = {}
        rows = file.metadata.row_group(group).num_rows
        available = file.schema_arrow.names
        for name in self.fields():
            column_name = name if name in available else name.split(".")[0]
            if column_name not in available:
                raise UserError(f"{path}: has no field {name!r}, which the other files have.")
            if column_name not in columns:
                try:
                    columns[column_name] = file.read_row_group(group, columns=[column_name]).column(0)
                except (OSError, pa.ArrowException) as error:
                    if cannot_be_read(error):
                        raise
                    reason = " ".join(str(error).split()).removesuffix(".")
                    yield from [
                        f"{path}: rows {row + 1} to {row + rows}, field {column_name!r}, cannot be read: {reason}"
                    ] * rows
                    return
        for position in range(rows):
            try:
                yield check_fields({name: _value(column[position]) for name, column in columns.items()}, self.fields())
            except BadRecord as bad:
                yield f"{path}: row {row + position + 1}: {bad}"

    def _scan(self, path: str) -> Index:
        stamp = stamp_of(path)
        counts: list[list[int]] = []
        starts: list[int] = []
        problems: list[str] = []
        skipped = row = 0
        with _open(path) as file:
            names = list(self.splits) if self.shares else [""]
            for group in range(file.num_row_groups):
                count = [0] * len(names)
                for values in self._rows(path, file, group, row):
                    if isinstance(values, str):
                        if self.on_bad == "stop":
                            raise UserError(f"{values}. (on_bad='skip' skips and counts such rows.)")
                        skipped += 1
                        problems += [values] if len(problems) < _MAX_PROBLEMS else []
                        continue
                    count[names.index(self._split(values)) if self.shares else 0] += 1
                counts.append(count)
                starts.append(row)
                row += file.metadata.row_group(group).num_rows
        return Index(
            stamp=stamp,
            columns=(),
            blocks=np.array(starts, np.int64).reshape(-1, 1),
            counts=np.array(counts, np.int64).reshape(-1, len(names)),
            skipped=skipped,
            problems=tuple(problems),
        )

    def _split(self, values: Mapping[str, Any]) -> str:
        assert self.split_by is not None
        return split_of(str(values[self.split_by]).encode("utf-8"), self.shares)

    def _read(self, path: str, index: Index, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        with _open(path) as file:
            rows = self._rows(path, file, block, int(index.blocks[block, 0]))
            good = [values for values in rows if not isinstance(values, str)]
        return [values for values in good if not self.shares or self._split(values) == split]


def _open(path: str) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as a Parquet file: {' '.join(str(error).split())}.") from None


def _value(scalar: Any) -> Any:
    try:
        return _plain(scalar.as_py(), scalar.type)
    except UnicodeDecodeError:
        raise BadRecord("invalid UTF-8") from None


def _plain(value: Any, found: Any) -> Any:
    """Return a value with float32 and float16 as the shortest equal decimal: a float32 of 0.1 is 0.1, not 0.10000000149011612."""
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_float32(found) or pa.types.is_float16(found):
        return float(str(np.float32(value) if pa.types.is_float32(found) else np.float16(value)))
    if _is_list(found):
        return [_plain(item, found.value_type) for item in value]
    if pa.types.is_struct(found):
        return {field.name: _plain(value[field.name], field.type) for field in found}
    return value


def _is_list(found: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found))


def _types_of(fields: Any, prefix: str = "") -> Iterator[tuple[str, type | None]]:
    """Yield the names and types of fields. Fields inside a struct have dotted names."""
    import pyarrow as pa

    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _types_of(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, _type_of(field.type)


def _type_of(found: Any) -> type | None:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(found):
        found = found.value_type
    if _is_list(found):
        item = _type_of(found.value_type)
        return next((kind for kind, of in LISTS.items() if of is item), None)
    if types.is_string(found) or types.is_large_string(found) or types.is_string_view(found):
        return str
    if types.is_boolean(found):
        return bool
    if types.is_integer(found):
        return int
    return float if types.is_floating(found) else None


def parquet(
    files: Patterns | Mapping[str, Patterns],
    *,
    fields: Sequence[str] | Mapping[str, type] | None = None,
    held_out: float | Mapping[str, float] = 0.0,
    split_by: str | None = None,
    on_bad: str = "stop",
) -> ParquetSource:
    """Return a source of Parquet files.

    Args:
      files: a path, a glob pattern or several of them, all in the split "train"; or a dict of these by split.
      fields: columns to read. A dict gives their types (str, int, float, bool, or a list of one of these, as list[str]). A dotted name,
        "answers.text", addresses a field of a struct. Default: the columns that the task uses, or all columns of these types.
      held_out: fraction of the rows for the split "validation", or fractions by split; needs `split_by`.
      split_by: a hash of this field decides which rows are held out.
      on_bad: what to do with a null, a value of another type or invalid UTF-8: "stop" raises a UserError that names file and row
        (from 1), "skip" skips and counts it.
    """
    source = ParquetSource(files, fields=fields, held_out=held_out, split_by=split_by, on_bad=on_bad)
    if source.shares and split_by is None:
        raise UserError(
            "split_by of a Parquet source is missing: held_out needs the field whose hash decides the split."
        )
    return source
