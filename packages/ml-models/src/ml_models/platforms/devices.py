"""Makers' figures of devices: memory, peaks, bandwidth, links. devices.toml has them with sources.

The share of the peak that a run reaches (MFU) and `ml-train plan` are computed from this table, so
that both mean the same device. Nothing here asks torch for a device: names are given as text.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ml_models.errors import UnknownDeviceError
from ml_models.files.tables import read_table
from ml_models.nearest import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a figure can be read."""

    title: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Device:
    """A row of devices.toml, whose head says what each figure means."""

    name: str
    title: str
    names: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    platform: str | None = None
    """The platform that drives it, such as cuda; None where a file of a user's does not say it."""
    memory_bytes: float
    tflops: Mapping[str, float]
    """Dense peak in TFLOP/s by the name of a dtype, such as bfloat16."""
    memory_bytes_per_second: float
    intra_node_bytes_per_second: float
    inter_node_bytes_per_second: float | None = None
    """None where the maker sells no machine with a network."""
    devices_per_node: int
    source: str
    sources: Mapping[str, str] = field(default_factory=dict)

    def reports_as(self, name: str) -> bool:
        """Whether torch calls such a device `name`."""
        bare = name.removeprefix("NVIDIA ")
        return any(re.fullmatch(pattern, bare) for pattern in self.names)

    def peak_tflops(self, dtype: str) -> float | None:
        """The dense peak in TFLOP/s for a dtype such as "bfloat16"; None where it is not public."""
        return self.tflops.get(dtype.removeprefix("torch."))

    def source_of(self, figure: str) -> Source:
        """Where a figure of this row comes from, by the name of its field."""
        return _sources()[self.sources.get(figure, self.source)]


FIGURES = tuple(
    item.name
    for item in fields(Device)
    if item.name.endswith(("_bytes", "_per_second", "tflops", "_per_node"))
)
"""The fields that have a source."""


@functools.cache
def devices() -> Mapping[str, Device]:
    """All rows by name."""
    rows = read_table("ml_models.platforms", "devices.toml")["devices"]
    return {name: Device(name=name, **_with_tuples(row)) for name, row in rows.items()}


def _with_tuples(row: Mapping[str, object]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def device(name: str) -> Device:
    """The row called `name`, or with this alias. Raises UnknownDeviceError."""
    for row in devices().values():
        if name in (row.name, *row.aliases):
            return row
    known = sorted({*devices(), *(alias for row in devices().values() for alias in row.aliases)})
    raise UnknownDeviceError(
        f"No device is called {name!r}; known: {', '.join(known)}.{did_you_mean(name, known)}"
    )


def reported_device(name: str) -> Device | None:
    """The row of the device that torch calls `name`, such as "NVIDIA H100 NVL"; None for others.

    A part of a device (MIG) is not in the table, because its peak is a part as well.
    """
    return next((row for row in devices().values() if row.reports_as(name)), None)


@functools.cache
def _sources() -> Mapping[str, Source]:
    rows = read_table("ml_models.platforms", "devices.toml")["sources"]
    return {name: Source(**row) for name, row in rows.items()}
