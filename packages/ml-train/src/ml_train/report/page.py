"""The report as one HTML file with everything in it: no script, font or picture from elsewhere.

page.html.j2 lays the page out; this module computes what stands on it.
"""

import base64
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from ml_train import tables
from ml_train.config.run import RunConfig
from ml_train.report.figures import all_figures
from ml_train.report.findings import findings
from ml_train.report.records import RunRecords, StartRecord

_CHAPTERS = {
    "Loss": ("loss",),
    "Experts": ("expert_load", "imbalance", "router_entropy", "aux_loss"),
    "Optimization": ("grad_norm", "learning_rate"),
    "Speed and memory": ("tokens", "tflops", "mfu", "phases", "memory"),
}
"""Title -> names of ml_train.report.figures.all_figures."""
_SIZES = {
    "TP": "tensor_model_parallel_size",
    "PP": "pipeline_model_parallel_size",
    "EP": "expert_model_parallel_size",
    "ETP": "expert_tensor_parallel_size",
}


@dataclass(frozen=True)
class Tile:
    """A figure in large print, and what it is."""

    value: str
    label: str


@dataclass(frozen=True)
class Picture:
    """An SVG that the page carries inside."""

    name: str
    base64: str


@dataclass(frozen=True)
class Chapter:
    """Pictures under a title."""

    title: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Validation:
    """The losses after a step, as text."""

    step: int
    result: str


@dataclass(frozen=True)
class Row:
    """A setting; those that differ from their default are tinted."""

    name: str
    value: str
    is_changed: bool = False


@dataclass(frozen=True)
class Section:
    """Settings that fold away under a title."""

    title: str
    rows: list[Row]
    is_open: bool = False


def render_page(run: RunRecords) -> str:
    """The page. All text of the run is escaped."""
    # autoescape, as the text of errors and the names of files are not ours.
    environment = Environment(
        loader=PackageLoader("ml_train", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    start = run.starts[-1] if run.starts else StartRecord()
    return environment.get_template("page.html.j2").render(
        title=_model_name(start),
        subtitle=_subtitle(run, start),
        tiles=_tiles(run, start),
        findings=findings(run),
        chapters=_chapters(run),
        validations=[
            Validation(
                step=record["iteration"],
                result=", ".join(f"{name} {loss:.5f}" for name, loss in record["losses"].items()),
            )
            for record in run.validations
        ],
        sections=_sections(start),
    )


def _model_name(start: StartRecord) -> str:
    model = start.get("config", {}).get("model", {})
    return str(model.get("model_config") or model.get("model") or "training run")


def _subtitle(run: RunRecords, start: StartRecord) -> str:
    begun = (run.starts or run.reports)[0].get("time", "")
    versions = ", ".join(f"{name} {number}" for name, number in start.get("versions", {}).items())
    times = [text for text in (begun, run.reports[-1].get("time", "")) if text]
    return "  |  ".join(part for part in (" to ".join(times), versions, str(run.path)) if part)


def _tiles(run: RunRecords, start: StartRecord) -> list[Tile]:
    first, last = run.reports[0], run.reports[-1]
    tiles = [
        Tile(f"{last['iteration']} of {last['train_iters']}", "steps"),
        Tile(tables.loss(last["loss"]), f"training loss (from {tables.loss(first['loss'])})"),
    ]
    if run.validations:
        name, value = next(iter(run.validations[-1]["losses"].items()))
        tiles.append(Tile(tables.loss(value), f"validation: {name}"))
    # The first half has the start-up of the process and of its caches in it.
    half = run.reports[len(run.reports) // 2 :]
    speed = sum(report["tokens_per_second_per_device"] for report in half) / len(half)
    tiles.append(Tile(tables.per_second(speed), "tokens/s/device, second half"))
    rate = sum(report["model_tflops_per_device"] for report in half) / len(half)
    tiles.append(Tile(tables.tflops(rate), "model TFLOP/s/device"))
    mfu = last.get("mfu")
    if mfu is not None:
        tiles.append(Tile(tables.percent(mfu), "MFU"))
    peak = max(report["memory_bytes"] for report in run.reports)
    tiles.append(Tile(tables.gibibytes(peak), "peak memory"))
    if "num_devices" in start:
        layout = start.get("config", {}).get("parallel", {})
        sizes = [f"{short}{layout[key]}" for short, key in _SIZES.items() if layout.get(key)]
        tiles.append(Tile(str(start["num_devices"]), "devices: " + " ".join(sizes)))
    return tiles


def _chapters(run: RunRecords) -> list[Chapter]:
    figures = all_figures(run)
    chapters = []
    for title, names in _CHAPTERS.items():
        if title == "Experts" and "expert_load" not in figures:
            continue
        pictures = [
            Picture(name, base64.b64encode(figures[name].encode()).decode())
            for name in names
            if name in figures
        ]
        chapters.append(Chapter(title, pictures))
    return chapters


def _sections(start: StartRecord) -> list[Section]:
    """Sections with changed settings are open."""
    defaults = RunConfig()
    sections = []
    for title, values in start.get("config", {}).items():
        rows = []
        for name, value in values.items():
            default = getattr(getattr(defaults, title, None), name, None)
            rows.append(Row(name, _plain(value), is_changed=_plain(value) != _plain(default)))
        changed = sum(row.is_changed for row in rows)
        shown = f"{title} ({changed} changed)" if changed else title
        sections.append(Section(shown, rows, is_open=changed > 0))
    model = [Row(name, _plain(value)) for name, value in start.get("model", {}).items()]
    if model:
        sections.append(Section("the model's own sizes", model))
    return sections


def _plain(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "unset"
    return str(value)
