"""The pictures of a report, drawn with matplotlib without a display."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from ml_train.figure_style import BLUE, GREEN, GREY, ORANGE, blank_figure
from ml_train.report.records import RunRecords

Draw = Callable[[RunRecords, Axes], None]

_PHASES = {
    "data": "#c9a227",
    "forward": "#2f6db3",
    "backward": "#74a3d4",
    "communication": "#d9742b",
    "optimizer": "#3f8f5b",
    "other": "#d4d7dd",
}
_WIDE, _HALF = (10.0, 4.2), (5.4, 3.1)
"""Width and height in inches."""
_MARKED_POINTS = 40
"""A curve of fewer points has a marker on each, so that a short run shows its steps."""
_LABELLED_CELLS = 96
"""A heat map of more cells has no room for a number in each."""


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    # Without its date a picture of the same run has the same bytes.
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def save_loss_curve(run: RunRecords, path: Path) -> None:
    """The loss picture alone, in the format that the name ends in."""
    with blank_figure(_WIDE) as (figure, axes):
        _draw_loss(run, axes)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)


def all_figures(run: RunRecords) -> dict[str, str]:
    """Name -> SVG, of those figures that the run has numbers for."""
    pictures = {"loss": _draw_svg(_WIDE, run, _draw_loss)}
    for name, draw in _HALVES.items():
        if draw is _draw_phases:
            has_numbers = any(report.get("phase_seconds") for report in run.reports)
        else:
            has_numbers = bool(run.series(_SERIES[name])[0])
        if has_numbers:
            pictures[name] = _draw_svg(_HALF, run, draw)
    if run.reports[-1].get("expert_load"):
        pictures["expert_load"] = _draw_svg(_load_size(run), run, _draw_load)
        pictures["imbalance"] = _draw_svg(_load_size(run), run, _draw_imbalance)
    return pictures


def _draw_svg(size: tuple[float, float], run: RunRecords, draw: Draw) -> str:
    with blank_figure(size) as (figure, axes):
        draw(run, axes)
        return _svg(figure)


def _draw_loss(run: RunRecords, axes: Axes) -> None:
    steps, losses = run.series("loss")
    marker = "o" if len(steps) < _MARKED_POINTS else None
    axes.plot(steps, losses, color=BLUE, lw=1.8, marker=marker, ms=3.5, label="training")
    if run.validations:
        validated = [record["iteration"] for record in run.validations]
        values = [next(iter(record["losses"].values())) for record in run.validations]
        axes.plot(validated, values, color=ORANGE, lw=0, marker="D", ms=6, label="validation")
    for number, step in enumerate(sorted(set(run.resumed_at))):
        label = "resumed from a checkpoint" if number == 0 else None
        axes.axvline(step, color=GREY, lw=1.1, ls=(0, (4, 3)), label=label)
    axes.set(title="Loss", xlabel="step", ylabel="cross entropy per token (nats)")
    axes.margins(x=0.02)
    _whole_steps(axes)
    if losses:
        axes.annotate(
            f"{losses[-1]:.3f}",
            (steps[-1], losses[-1]),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            color=BLUE,
            weight="bold",
        )
    axes.legend(loc="upper right")


def _line(name: str, title: str, unit: str, color: str) -> Draw:
    def draw(run: RunRecords, axes: Axes) -> None:
        steps, values = run.series(name)
        marker = "o" if len(steps) < _MARKED_POINTS else None
        axes.plot(steps, values, color=color, lw=1.6, marker=marker, ms=3)
        axes.set(title=title, xlabel="step", ylabel=unit)
        if name not in ("loss", "aux_loss", "router_entropy") and min(values) >= 0:
            axes.set_ylim(0, 1.15 * max(values) or 1)
        axes.margins(x=0.02)
        _whole_steps(axes)

    return draw


def _draw_entropy(run: RunRecords, axes: Axes) -> None:
    steps, rows = run.router_entropy()
    table = np.array(rows)
    axes.fill_between(steps, table.min(axis=1), table.max(axis=1), color=GREEN, alpha=0.2, lw=0)
    axes.plot(steps, table.mean(axis=1), color=GREEN, lw=1.6, label="mean over layers")
    experts = len(run.reports[-1]["expert_load"][0]) if run.reports[-1].get("expert_load") else 0
    if experts:
        axes.axhline(np.log(experts), color=GREY, lw=1, ls=":", label=f"undecided: ln {experts}")
    axes.set(title="Router entropy (band: all layers)", xlabel="step", ylabel="nats")
    axes.margins(x=0.02)
    _whole_steps(axes)
    axes.legend(loc="best")


def _draw_memory(run: RunRecords, axes: Axes) -> None:
    steps, values = run.series("memory_bytes")
    axes.plot(steps, [value / 2**30 for value in values], color=GREY, lw=1.6)
    axes.set(title="Peak memory of rank 0", xlabel="step", ylabel="GiB")
    axes.set_ylim(0, 1.15 * max(values) / 2**30 or 1)
    axes.margins(x=0.02)
    _whole_steps(axes)


def _draw_phases(run: RunRecords, axes: Axes) -> None:
    reports = [report for report in run.reports if report.get("phase_seconds")]
    steps = [report["iteration"] for report in reports]
    parts = {
        name: [report["phase_seconds"].get(name, 0.0) for report in reports]
        for name in _PHASES
        if name != "other"
    }
    totals = [report["step_seconds"] for report in reports]
    timed = [sum(column) for column in zip(*parts.values(), strict=True)]
    # Clocks of the phases may add up to a little more than the step's own.
    parts["other"] = [max(0.0, total - sums) for total, sums in zip(totals, timed, strict=True)]
    shown = {name: values for name, values in parts.items() if max(values) > 0}
    colors = [_PHASES[name] for name in shown]
    axes.stackplot(steps, *shown.values(), labels=list(shown), colors=colors, lw=0)
    axes.set(title="Where a step's time goes", xlabel="step", ylabel="seconds")
    axes.margins(x=0.0)
    axes.set_ylim(bottom=0)
    _whole_steps(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))


def _load_size(run: RunRecords) -> tuple[float, float]:
    layers = len(run.reports[-1]["expert_load"])
    return 5.4, min(8.0, max(2.6, 1.5 + 0.28 * layers))


def _draw_load(run: RunRecords, axes: Axes) -> None:
    rows = [report["expert_load"] for report in run.reports if report.get("expert_load")]
    table = np.array(rows[-max(1, len(rows) // 5) :]).mean(axis=0)
    layers, experts = table.shape
    image = axes.imshow(
        table * experts, aspect="auto", cmap="RdBu_r", vmin=0, vmax=2, interpolation="nearest"
    )
    if layers * experts <= _LABELLED_CELLS:
        for layer in range(layers):
            for expert in range(experts):
                share = table[layer, expert]
                # The map is dark at both ends.
                ink = "white" if abs(share * experts - 1) > 0.7 else "#22262e"
                text = f"{100 * share:.0f}"
                axes.text(expert, layer, text, ha="center", va="center", color=ink, size=8)
    axes.set(title="Share of tokens per expert, %, last fifth", xlabel="expert", ylabel="layer")
    _finish_map(axes, image)


def _draw_imbalance(run: RunRecords, axes: Axes) -> None:
    reports = [report for report in run.reports if report.get("expert_load")]
    table = np.array([report["expert_load"] for report in reports])
    busiest = (table.max(axis=2) * table.shape[2]).T
    steps = [report["iteration"] for report in reports]
    # A map of one step would have no width.
    low, high = steps[0], steps[-1] if len(steps) > 1 else steps[0] + 1
    image = axes.imshow(
        busiest,
        aspect="auto",
        cmap="YlOrRd",
        vmin=1,
        vmax=max(2.0, float(np.percentile(busiest, 98))),
        extent=(low, high, busiest.shape[0] - 0.5, -0.5),
        interpolation="nearest",
    )
    axes.set(title="Load of each layer's busiest expert", xlabel="step", ylabel="layer")
    _finish_map(axes, image)


def _finish_map(axes: Axes, image: AxesImage) -> None:
    axes.grid(visible=False)
    _whole_steps(axes)
    axes.yaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    axes.figure.colorbar(image, ax=axes, label="x fair share", shrink=0.9)


def _whole_steps(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


_SERIES = {
    "aux_loss": "aux_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens": "tokens_per_second_per_device",
    "tflops": "model_tflops_per_device",
    "mfu": "mfu",
    "memory": "memory_bytes",
    "router_entropy": "router_entropy",
}
_HALVES: dict[str, Draw] = {
    "learning_rate": _line("learning_rate", "Learning rate", "", GREEN),
    "grad_norm": _line("grad_norm", "Gradient norm before clipping", "", BLUE),
    "aux_loss": _line("aux_loss", "Load-balancing loss (1 is balanced)", "", ORANGE),
    "router_entropy": _draw_entropy,
    "tokens": _line("tokens_per_second_per_device", "Throughput", "tokens/s/device", BLUE),
    "tflops": _line("model_tflops_per_device", "Model FLOP/s", "TFLOP/s/device", BLUE),
    "mfu": _line("mfu", "Share of the device's dense peak (MFU)", "", BLUE),
    "phases": _draw_phases,
    "memory": _draw_memory,
}
