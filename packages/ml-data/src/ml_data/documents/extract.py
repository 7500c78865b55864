"""Texts out of a batch, per output. Rows without a usable text are set aside with the reason.

This runs in the workers, since parsing JSON takes as long as the fast engine's encoding.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import orjson
import pyarrow as pa

from ml_data.arrow import strings
from ml_data.documents.batch import Batch
from ml_data.documents.hints import shown_names
from ml_data.documents.template import Template
from ml_data.documents.text_types import as_strings, is_number, is_utf8

NULL, UNDECODABLE, TOO_LONG = "null", "undecodable", "too_long"


class QuarantineRow(TypedDict, total=False):
    """A row without a usable text: where it is, why, and what it holds."""

    row: int
    reason: str
    """NULL, UNDECODABLE or TOO_LONG."""
    detail: str
    raw: object
    raw_base64: str
    """Instead of `raw`, for bytes that are not UTF-8."""


@dataclass
class ExtractedTexts:
    """Texts of an output without nulls, with their row numbers; `bad` are the other rows."""

    values: pa.Array
    rows: list[int] | range
    bad: list[QuarantineRow] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class WantedTexts:
    """The texts that a run takes from every file: those of `keys`, or of a template."""

    keys: tuple[str, ...]
    template: Template | None = None

    @property
    def columns(self) -> list[str]:
        """The columns or keys to read."""
        return list(self.template.fields if self.template else self.keys)

    @property
    def required(self) -> list[str]:
        """Those without which no row has a text."""
        return list(self.template.required if self.template else self.keys)

    @property
    def flag(self) -> str:
        """The flag that named the columns, for messages."""
        return "--template" if self.template else "--json-keys"


def extract(batch: Batch, key: str, template: Template | None) -> ExtractedTexts:
    """Texts of the column `key`, or of the template, in row order."""
    if batch.lines is not None:
        return _from_lines(batch, key, template)
    if template is not None:
        rows = _rows_of(batch.arrow_columns)
        return _collect(batch.first_row, rows, template.render)
    return _from_column(batch, key)


def _from_column(batch: Batch, key: str) -> ExtractedTexts:
    values = column_values(batch.arrow_columns, key)
    rows: list[int] | range = range(batch.first_row, batch.first_row + len(values))
    if not values.null_count and is_utf8(values):
        return ExtractedTexts(values, rows)
    raw = values.cast(pa.large_binary())
    return _collect(batch.first_row, raw.to_pylist(), lambda cell: cell)


def column_values(columns: pa.RecordBatch, key: str) -> pa.Array:
    """The string or large_string array of `key`, where `a.b` is field b of the struct a."""
    if key in columns.schema.names:
        values = columns.column(columns.schema.get_field_index(key))
    else:
        head, *rest = key.split(".")
        values = columns.column(columns.schema.get_field_index(head))
        for name in rest:
            # flatten() keeps the struct's own nulls, which field() would lose.
            values = values.flatten()[values.type.get_field_index(name)]
    return as_strings(values)


def _rows_of(columns: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch. A column with a cell that is not UTF-8 has all its cells as bytes."""
    cells = []
    for values in columns.columns:
        if not is_number(values.type):
            values = as_strings(values)
            if not is_utf8(values):
                values = values.cast(pa.large_binary())
        cells.append(values.to_pylist())
    return [dict(zip(columns.schema.names, row, strict=True)) for row in zip(*cells, strict=True)]


def _from_lines(batch: Batch, key: str, template: Template | None) -> ExtractedTexts:
    lines = (batch.lines or b"").split(b"\n")
    if not lines[-1]:
        lines.pop()
    get = template.render if template else lambda row: _nested(row, key)
    # orjson makes a float of an integer beyond 64 bits, which a template would show.
    load = _load if template else _load_fast

    def parse(line: bytes) -> object:
        row = load(line)
        if not isinstance(row, dict):
            raise ValueError(f"a JSON object was expected, not {type(row).__name__}")
        return get(row)

    return _collect(batch.first_row, lines, parse, skip_blank=True)


def _load(line: bytes) -> object:
    return json.loads(line.decode("utf-8").removeprefix("\ufeff"))


def _load_fast(line: bytes) -> object:
    """The value of a line by orjson, in half the time of json.

    json reads the lines that orjson refuses. It accepts some of them (NaN, lone surrogates), and
    its message is shown for the others.
    """
    try:
        return orjson.loads(line)
    except ValueError:
        return _load(line)


def _nested(row: dict[str, Any], key: str) -> object:
    if key in row:
        return row[key]
    value: Any = row
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"no key {key!r}; it has: {shown_names(row)}")
        value = value[name]
    return value


def _collect(
    first_row: int, cells: list[Any], get: Callable[[Any], object], *, skip_blank: bool = False
) -> ExtractedTexts:
    encoded: list[bytes] = []
    rows: list[int] = []
    bad: list[QuarantineRow] = []
    for row, cell in enumerate(cells, first_row):
        if skip_blank and not cell.strip():
            continue
        try:
            text = get(cell) if cell is not None else None
            if isinstance(text, bytes):
                text = text.decode("utf-8")
            if text is None:
                bad.append(bad_row(row, NULL, "the cell is null", None))
                continue
            if not isinstance(text, str):
                raise ValueError(f"a text was expected, not {type(text).__name__}")
            utf8 = text.encode("utf-8")
        except (ValueError, KeyError, RecursionError) as error:
            bad.append(bad_row(row, UNDECODABLE, str(error), cell))
            continue
        encoded.append(utf8)
        rows.append(row)
    return ExtractedTexts(strings(encoded), rows, bad)


def bad_row(row: int, reason: str, detail: str, raw: object) -> QuarantineRow:
    """An entry of the quarantine with what the row holds; bytes that are no text as base64."""
    entry: QuarantineRow = {"row": row, "reason": reason, "detail": detail}
    if isinstance(raw, bytes):
        try:
            entry["raw"] = raw.decode("utf-8")
        except UnicodeDecodeError:
            entry["raw_base64"] = base64.b64encode(raw).decode("ascii")
    elif isinstance(raw, dict):
        shown = {
            key: value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
            for key, value in raw.items()
        }
        entry["raw"] = shown
    elif raw is not None:
        entry["raw"] = raw
    return entry
