"""What a user can do whose file has no text under the name that was given."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ml_data.documents.text_types import is_number

_SHOWN_NAMES = 20
# The keys of a chat message in the formats of OpenAI and of ShareGPT.
_MESSAGE_KEYS = {"role", "content", "from", "value"}


@dataclass(kw_only=True)
class NamesByContent:
    """The names in a row or schema by what they hold; `a.b` is field b of the object a."""

    texts: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    chats: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    """Lists of objects that are no messages, such as the `data` of an exported table."""


def names_of_row(row: Mapping[str, Any], head: str = "") -> NamesByContent:
    """The keys of a JSON object by what their values hold."""
    contents = NamesByContent()
    for key, value in row.items():
        name = f"{head}{key}"
        if isinstance(value, str):
            contents.texts.append(name)
        elif isinstance(value, (int, float)):
            contents.numbers.append(name)
        elif isinstance(value, dict) and not head:
            contents.texts += names_of_row(value, f"{name}.").texts
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            (contents.chats if _MESSAGE_KEYS & set(value[0]) else contents.tables).append(name)
    return contents


def names_of_schema(schema: pa.Schema) -> NamesByContent:
    """The columns of a parquet file by what they hold."""
    contents = NamesByContent()
    for column in schema:
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            contents.texts.append(column.name)
        elif is_number(kind):
            contents.numbers.append(column.name)
        elif pa.types.is_struct(kind):
            names = [kind.field(at).name for at in range(kind.num_fields)]
            texts = [name for name in names if pa.types.is_string(kind.field(name).type)]
            contents.texts += [f"{column.name}.{name}" for name in texts]
        elif pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
            fields = kind.value_type
            names = [fields.field(at).name for at in range(fields.num_fields)]
            contents.chats += [column.name] if _MESSAGE_KEYS & set(names) else []
    return contents


def shown_names(names: Iterable[str]) -> str:
    """The first names of columns or keys, and how many more there are."""
    every = list(map(str, names))
    more = len(every) - _SHOWN_NAMES
    return ", ".join(every[:_SHOWN_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def way_out(names: NamesByContent, flag: str) -> str:
    """A sentence on what to do; `flag` named what is missing."""
    if names.chats and not names.texts:
        return (
            f"{names.chats[0]!r} holds a chat, a list of messages: make a text of each row first, "
            "for example with the chat template of your model"
        )
    if flag == "--template":
        return "Name another with --template"
    if names.texts and names.texts[0]:  # no flag can name a key without a name
        fields = [f"{{{name}}}" for name in names.texts[:2] if name.isidentifier()]
        several = f", or make one text of several as in --template '{' '.join(fields)}'"
        example = f"as in --json-keys {shlex.quote(names.texts[0])}"
        return f"Name another with --json-keys, {example}{several if len(fields) == 2 else ''}"
    if len(names.tables) == 1 and not names.numbers:
        return f"JSON lines have a row a line: jq -c '.{names.tables[0]}[]' FILE > FILE.rows.jsonl"
    return "Name another with --json-keys"
