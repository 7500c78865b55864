"""Versions of Python, torch, torch_npu, CANN, megatron-core and adaptors that belong together.

versions.toml has them, each row with its source. Other combinations are not refused: what a run
needs is checked where it is used. `differences` says how an installation departs from the nearest
row, for `ml-train doctor`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_models.files.tables import read_table

COMPONENTS = ("python", "torch", "torch_npu", "cann", "megatron_core")
"""What an installation is compared by."""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A row of versions.toml, whose head says what each column means."""

    name: str
    platforms: tuple[str, ...]
    python: tuple[str, ...]
    torch: str
    megatron_core: str
    core_from: str
    torch_npu: str | None = None
    cann: str | None = None
    adaptor: str | None = None
    pins: tuple[str, ...] = ()
    source: Mapping[str, str]

    def requirements(self) -> tuple[str, ...]:
        """What pip is to install, a line each; megatron-core only where it comes from pip."""
        lines = [f"torch=={self.torch}"]
        if self.torch_npu:
            lines.append(f"torch-npu=={self.torch_npu}")
        if self.core_from == "pip":
            lines.append(f"megatron-core=={self.megatron_core}")
        return (*lines, *self.pins)

    def allowed(self, component: str) -> tuple[str, ...]:
        """The versions that the row names for one of COMPONENTS; none where it names none."""
        value = getattr(self, component)
        return value if isinstance(value, tuple) else (value,) if value else ()


@functools.cache
def combinations(platform: str | None = None) -> tuple[Combination, ...]:
    """All rows, or those of a platform."""
    rows = read_table("ml_models.platforms", "versions.toml")
    made = [Combination(name=name, **_with_tuples(row)) for name, row in rows.items()]
    return tuple(row for row in made if platform in (None, *row.platforms))


def _with_tuples(row: Mapping[str, object]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def differences(row: Combination, installed: Mapping[str, str]) -> dict[str, str]:
    """Component -> the row's versions, for every component whose installed version is another.

    `installed` has versions by the names of COMPONENTS. A component that is absent there, or that
    the row does not name, is not compared.
    """
    return {
        component: " or ".join(row.allowed(component))
        for component in COMPONENTS
        if component in installed
        and row.allowed(component)
        and installed[component] not in row.allowed(component)
    }


def nearest(platform: str, installed: Mapping[str, str]) -> Combination | None:
    """The row of `platform` with the fewest differences, the line of megatron-core counting most.

    None for a platform without rows, such as a plug-in's.
    """
    line = installed.get("megatron_core", "").rpartition(".")[0]

    def distance(row: Combination) -> tuple[bool, int]:
        return row.megatron_core.rpartition(".")[0] != line, len(differences(row, installed))

    return min(combinations(platform), key=distance, default=None)
