"""A text from several columns, for instruction data without a `text` column.

A template is `alpaca` or a pattern such as `Q: {question}\\nA: {answer}`; `{{` is a brace.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass

from ml_data.errors import UsageError

# Stanford Alpaca's prompts, as in the `text` column of its parquet release.
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
    "{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}"
)
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n{output}"
)


@dataclass(frozen=True, kw_only=True)
class Template:
    """`pattern` over `fields`; `without` applies when the field `optional` is null or empty."""

    name: str
    pattern: str
    fields: tuple[str, ...]
    optional: str | None = None
    without: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """The fields without which a row has no text."""
        return tuple(field for field in self.fields if field != self.optional)

    def render(self, row: Mapping[str, object]) -> str | None:
        """The text of a row; None when a field that it needs is null.

        Numbers and booleans appear as JSON writes them. ValueError for a list or an object.
        """
        pattern = self.pattern
        if self.optional is not None and not row.get(self.optional):
            pattern = self.without
        if any(row.get(field) is None for field in self.required):
            return None
        return pattern.format_map({field: _shown(field, row.get(field)) for field in self.fields})


def _shown(field: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):  # a column of parquet
        return value.decode("utf-8")
    if isinstance(value, (list, dict)):
        kind = "a list" if isinstance(value, list) else "an object"
        raise ValueError(f"field {field!r} holds {kind}, a text or number was expected")
    return json.dumps(value)


def get_template(text: str) -> Template:
    """The template of that name, or of that pattern; UsageError for a pattern without fields."""
    if text == "alpaca":
        return Template(
            name="alpaca",
            pattern=_ALPACA_WITH_INPUT,
            fields=("instruction", "input", "output"),
            optional="input",
            without=_ALPACA,
        )
    # Shells pass a line feed in quotes as a backslash and an n.
    text = text.replace("\\n", "\n").replace("\\t", "\t")
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise UsageError(f"--template {text!r} is not a pattern: {error}") from error
    bad = [name for name in names if not name.replace("_", "a").isalnum()]
    if not names or bad:
        raise UsageError(
            f"--template {text!r}: expected 'alpaca' or a pattern with columns in braces, such as "
            "'Q: {question}\\nA: {answer}'"
        )
    return Template(name=text, pattern=text, fields=tuple(dict.fromkeys(names)))
