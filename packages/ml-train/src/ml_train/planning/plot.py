"""A plan as a picture: memory of every class of ranks, the pipeline, and where the time goes."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ml_models.files.durable import flush_folder, replacing
from ml_train import terminal
from ml_train.figure_style import BLUE, GREEN, GREY, ORANGE, STYLE
from ml_train.planning.pipeline import timeline
from ml_train.planning.plot_file import PlotError, format_of

if TYPE_CHECKING:
    from ml_train.planning.plan import RunPlan

_SHOWN_TURNS = 3
"""Micro batches that are drawn per stage of the pipeline: more of them repeat the pattern."""
_BACKWARD = 2.0
"""Of a forward pass's time: a backward pass computes two products where that computes one."""
_HEIGHT = 2.6
"""Inches of a panel."""
_COLORS = (BLUE, "#74a3d4", GREEN, ORANGE, "#c9a227", GREY, "#9b6fb0", "#d4d7dd")


def save_plot(
    plan: "RunPlan", path: Path, parts: Mapping[str, float] = MappingProxyType({})
) -> None:
    """Write the picture, in the format of its name. Raises ConfigError and PlotError.

    parts: seconds of a step by what takes them; empty where no time is planned.
    """
    try:
        _draw(plan, path, parts)
    except OSError as error:
        raise PlotError(f"--plot {path} cannot be written: {error}.") from error
    terminal.detail(f"wrote {path}")


def _draw(plan: "RunPlan", path: Path, parts: Mapping[str, float]) -> None:
    kind = format_of(path)
    draws = [_draw_memory, *([_draw_pipeline] if plan.layout.pp > 1 else [])]
    # Text stays text, so that it can be searched and copied.
    with matplotlib.rc_context({**STYLE, "svg.fonttype": "none"}):
        rows = len(draws) + bool(parts)
        figure = Figure(figsize=(10.0, _HEIGHT * rows), layout="constrained")
        FigureCanvasAgg(figure)
        areas = figure.subplots(rows, 1, squeeze=False)[:, 0]
        for draw, axes in zip(draws, areas, strict=False):
            draw(plan, axes)
        if parts:
            _draw_time(parts, areas[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            # Without its date a picture of the same plan has the same bytes.
            dated = {"Date": None} if kind == "svg" else None
            figure.savefig(stream, format=kind, dpi=160, metadata=dated)
        flush_folder(path.parent)


def _draw_memory(plan: "RunPlan", axes: Axes) -> None:
    titles = [f"{ranks.title}, {ranks.num_ranks} ranks" for ranks in plan.classes]
    states = [ranks.plan.held for ranks in plan.classes]
    layers = {
        "parameters": [item.parameters for item in states],
        "gradients": [item.gradients for item in states],
        "main parameters": [item.main_parameters for item in states],
        "moments": [item.moments for item in states],
        "activations or update": [
            max(ranks.plan.activations, ranks.plan.update) for ranks in plan.classes
        ],
    }
    left = [0.0] * len(titles)
    for (name, sizes), color in zip(layers.items(), _COLORS, strict=False):
        widths = [size / 1e9 for size in sizes]
        axes.barh(titles, widths, left=left, color=color, label=name, height=0.6)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    memory = plan.device.memory_bytes / 1e9
    axes.axvline(memory, color="#b3261e", lw=1.4, label=f"{plan.device.title}")
    axes.invert_yaxis()
    axes.set(title=f"Memory of a rank of {plan.model}", xlabel="GB")
    _legend(axes)


def _draw_pipeline(plan: "RunPlan", axes: Axes) -> None:
    layout = plan.layout
    shown = min(layout.num_microbatches, _SHOWN_TURNS * layout.pp)
    if layout.vp > 1:
        shown -= shown % layout.pp  # the interleaved schedule takes whole turns
    passes = timeline(layout.pp, layout.vp, shown, forward=1.0, backward=_BACKWARD)
    for is_backward, color, name in ((False, BLUE, "forward"), (True, GREEN, "backward")):
        chosen = [item for item in passes if item.backward is is_backward]
        axes.barh(
            [item.stage for item in chosen],
            [item.end - item.start for item in chosen],
            left=[item.start for item in chosen],
            height=0.8,
            color=color,
            edgecolor="white",
            linewidth=0.5,
            label=name,
        )
    number = f"the first {shown} of {layout.num_microbatches}"
    if shown == layout.num_microbatches:
        number = f"all {shown}"
    axes.set(
        title=f"Pipeline: {number} micro batches, a backward pass as long as two forward passes",
        xlabel="forward passes of a stage",
        ylabel="stage",
    )
    axes.set_yticks(range(layout.pp))
    axes.invert_yaxis()
    axes.margins(x=0.0)
    _legend(axes)


def _draw_time(parts: Mapping[str, float], axes: Axes) -> None:
    left = 0.0
    for number, (name, seconds) in enumerate(parts.items()):
        color = _COLORS[number % len(_COLORS)]
        axes.barh(["step"], [seconds], left=[left], color=color, height=0.5, label=name)
        left += seconds
    axes.set(title="Where a step's time goes, as planned", xlabel="seconds")
    axes.set_ylim(-0.6, 0.6)
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
