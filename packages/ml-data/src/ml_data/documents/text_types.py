"""Arrow's types that hold texts, and their values as strings without a copy.

Many writers of parquet do not mark bytes as UTF-8. So columns of bytes count as texts, and each
batch is validated. A value of Arrow's JSON type is a text as it stands.
"""

from __future__ import annotations

import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are texts, or bytes that are texts where they are UTF-8."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_json(kind):
        kind = kind.storage_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_null(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or _is_view(kind)
    )


def is_string(kind: pa.DataType) -> bool:
    """Whether values of this type are marked as UTF-8."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type are numbers or booleans, which a template shows as JSON does."""
    if pa.types.is_float16(kind):
        return False
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def as_strings(values: pa.Array) -> pa.Array:
    """The bytes of texts as a string or large_string array; they need not be UTF-8."""
    if _is_json(values.type):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return values
    if pa.types.is_binary(kind):
        return values.view(pa.string())
    if pa.types.is_null(kind) or _is_view(kind):
        return values.cast(pa.large_string())
    return values.cast(pa.large_binary()).view(pa.large_string())


def is_utf8(values: pa.Array) -> bool:
    """Whether all values of a string array are UTF-8."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_json(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json"


def _is_view(kind: pa.DataType) -> bool:
    # The oldest supported version of Arrow has no views, and no functions to ask for them.
    names = ("is_string_view", "is_binary_view")
    return any(getattr(pa.types, name, lambda _: False)(kind) for name in names)
