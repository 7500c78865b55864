"""Write constraints/npu-*.txt and the tables of docs/ascend.md and docs/cuda.md.

They are made from the package data of ml_models.platforms: versions.toml, variables.py and
devices.toml. A test fails when a file is out of step (examples/tests/test_version_tables.py).

Usage: python tools/version_tables.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from migration_tables import fill

from ml_models.platforms import variables
from ml_models.platforms.devices import devices
from ml_models.platforms.variables import Variable
from ml_models.platforms.versions import Combination, combinations

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"ascend.md": "npu", "cuda.md": "cuda"}
"""Page of docs/ -> the platform whose tables it has."""


def constraints(row: Combination) -> str:
    """The text of constraints/NAME.txt."""
    core = "megatron-core from pip" if row.core_from == "pip" else f"Megatron-LM {row.core_from}"
    parts = [f"CANN {row.cann}", core, *([row.adaptor] if row.adaptor else [])]
    head = [
        f"# Python {row.python[0]}, {', '.join(parts)}. docs/ascend.md has the steps.",
        f"# Source: {row.source['title']}, {row.source['url']}",
        "# Made by tools/version_tables.py from ml_models/platforms/versions.toml.",
    ]
    return "\n".join([*head, *row.requirements(), ""])


def constraints_files() -> dict[Path, str]:
    """Path -> text of every constraints file that is made from the table."""
    return {
        ROOT / "constraints" / f"{row.name}.txt": constraints(row) for row in combinations("npu")
    }


def versions_table(platform: str) -> str:
    """The combinations of a platform."""
    npu = platform == "npu"
    names = ["Python", "torch", *(["torch_npu", "CANN"] if npu else []), "megatron-core"]
    names += [*(["adaptor", "constraints"] if npu else []), "source"]
    rows = []
    for row in combinations(platform):
        link = row.source["url"].removeprefix("docs/")
        core = row.megatron_core if row.core_from == "pip" else f"source tree `{row.core_from}`"
        cells = [", ".join(row.python), row.torch]
        cells += [str(row.torch_npu), str(row.cann)] if npu else []
        cells += [core]
        cells += [row.adaptor or "none", f"`{row.name}.txt`"] if npu else []
        rows.append([*cells, f"[{row.source['title']}]({link})"])
    return _table(names, rows)


def variables_table(rows: Iterable[Variable]) -> str:
    """A platform's environment variables."""
    cells = [[f"`{row.name}`", row.shown, f"{row.reason} ([source]({row.link}))"] for row in rows]
    return _table(["variable", "value", "what happens without it"], cells)


def devices_table(prefix: str, *, ascend: bool) -> str:
    """Peaks and sizes of the devices of one maker."""
    cells = []
    for row in devices().values():
        if row.name.startswith("ascend") is ascend:
            peak = row.source_of("tflops")
            cells.append(
                [
                    f"`{row.name}`",
                    row.title.removeprefix(prefix),
                    f"{row.tflops['bfloat16']:.0f}",
                    f"{row.memory_bytes / 1e9:.0f}",
                    f"{row.memory_bytes_per_second / 1e12:.2f}",
                    f"[{peak.title.partition(',')[0]}]({peak.url})",
                ]
            )
    names = ["name", "device", "bf16, dense TFLOP/s", "memory, GB", "TB/s", "source of the peak"]
    return _table(names, cells)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---")


def rendered(page: str) -> str:
    """The text of a page of docs/ with all its tables made anew."""
    platform = PAGES[page]
    npu = platform == "npu"
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    text = fill(text, "versions", versions_table(platform))
    text = fill(text, "variables", variables_table(variables.NPU if npu else variables.CUDA))
    return fill(text, "devices", devices_table("" if npu else "NVIDIA ", ascend=npu))


def main() -> None:
    """Write all files."""
    for path, text in constraints_files().items():
        path.write_text(text, encoding="utf-8")
    for page in PAGES:
        (ROOT / "docs" / page).write_text(rendered(page), encoding="utf-8")


if __name__ == "__main__":
    main()
