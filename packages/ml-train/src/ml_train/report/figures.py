"""The pictures of a report, drawn with matplotlib without a display."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ml_train.report.records import RunRecords

BLUE, ORANGE, GREEN, GREY = "#2f6db3", "#d9742b", "#3f8f5b", "#7a8190"
_PHASES = {
    "data": "#c9a227",
    "forward": "#2f6db3",
    "backward": "#74a3d4",
    "communication": "#d9742b",
    "optimizer": "#3f8f5b",
    "other": "#d4d7dd",
}
_STYLE = {
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b9bec8",
    "axes.grid": True,
    "grid.color": "#eceef2",
    "axes.axisbelow": True,
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelcolor": "#4a505c",
    "xtick.color": "#4a505c",
    "ytick.color": "#4a505c",
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "legend.frameon": False,
    "svg.fonttype": "path",
}
_WIDE, _HALF = (10.0, 4.2), (5.4, 3.1)


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator[tuple[Any, Any]]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def save_loss_curve(run: RunRecords, path: Path) -> None:
    """The loss picture alone, in the format that the name ends in."""
    with _figure(_WIDE) as (figure, axes):
        _draw_loss(run, axes)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)


def all_figures(run: RunRecords) -> dict[str, str]:
    """name -> SVG, only those that the run has figures for."""
    made = {"loss": _drawn(_WIDE, run, _draw_loss)}
    for name, draw in _HALVES.items():
        if draw is _draw_phases:
            there = any(r.get("phase_seconds") for r in run.reports)
        else:
            there = bool(run.series(_SERIES[name])[0])
        if there:
            made[name] = _drawn(_HALF, run, draw)
    if run.reports[-1].get("expert_load"):
        made["expert_load"] = _drawn(_load_size(run), run, _draw_load)
        made["imbalance"] = _drawn(_load_size(run), run, _draw_imbalance)
    return made


def _drawn(
    size: tuple[float, float], run: RunRecords, draw: Callable[[RunRecords, Any], None]
) -> str:
    with _figure(size) as (figure, axes):
        draw(run, axes)
        return _svg(figure)


def _draw_loss(run: RunRecords, axes: Any) -> None:
    steps, losses = run.series("loss")
    marker = "o" if len(steps) < 40 else None
    axes.plot(steps, losses, color=BLUE, lw=1.8, marker=marker, ms=3.5, label="training")
    points = [(v["iteration"], next(iter(v["losses"].values()))) for v in run.validations]
    if points:
        at, values = zip(*points, strict=True)
        axes.plot(at, values, color=ORANGE, lw=0, marker="D", ms=6, label="validation")
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


def _line(name: str, title: str, unit: str, color: str) -> Callable[[RunRecords, Any], None]:
    def draw(run: RunRecords, axes: Any) -> None:
        steps, values = run.series(name)
        marker = "o" if len(steps) < 40 else None
        axes.plot(steps, values, color=color, lw=1.6, marker=marker, ms=3)
        axes.set(title=title, xlabel="step", ylabel=unit)
        if name not in ("loss", "aux_loss", "router_entropy") and min(values) >= 0:
            axes.set_ylim(0, 1.15 * max(values) or 1)
        axes.margins(x=0.02)
        _whole_steps(axes)

    return draw


def _draw_entropy(run: RunRecords, axes: Any) -> None:
    steps, rows = run.series("router_entropy")
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


def _draw_memory(run: RunRecords, axes: Any) -> None:
    steps, values = run.series("memory_bytes")
    axes.plot(steps, [v / 2**30 for v in values], color=GREY, lw=1.6)
    axes.set(title="Peak memory of rank 0", xlabel="step", ylabel="GiB")
    axes.set_ylim(0, 1.15 * max(values) / 2**30 or 1)
    axes.margins(x=0.02)
    _whole_steps(axes)


def _draw_phases(run: RunRecords, axes: Any) -> None:
    reports = [r for r in run.reports if r.get("phase_seconds")]
    steps = [r["iteration"] for r in reports]
    parts = {n: [r["phase_seconds"].get(n, 0.0) for r in reports] for n in _PHASES if n != "other"}
    total = [r["step_seconds"] for r in reports]
    known = [sum(column) for column in zip(*parts.values(), strict=True)]
    parts["other"] = [max(0.0, t - k) for t, k in zip(total, known, strict=True)]
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


def _draw_load(run: RunRecords, axes: Any) -> None:
    rows = [r["expert_load"] for r in run.reports if r.get("expert_load")]
    table = np.array(rows[-max(1, len(rows) // 5) :]).mean(axis=0)
    layers, experts = table.shape
    image = _heat(axes, table * experts)
    if layers * experts <= 96:
        for layer in range(layers):
            for expert in range(experts):
                share = table[layer, expert]
                # The map is dark at both ends.
                ink = "white" if abs(share * experts - 1) > 0.7 else "#22262e"
                text = f"{100 * share:.0f}"
                axes.text(expert, layer, text, ha="center", va="center", color=ink, size=8)
    axes.set(title="Share of tokens per expert, %, last fifth", xlabel="expert", ylabel="layer")
    axes.grid(visible=False)
    _whole_steps(axes)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.figure.colorbar(image, ax=axes, label="x fair share", shrink=0.9)


def _draw_imbalance(run: RunRecords, axes: Any) -> None:
    reports = [r for r in run.reports if r.get("expert_load")]
    table = np.array([r["expert_load"] for r in reports])
    busiest = (table.max(axis=2) * table.shape[2]).T
    steps = [r["iteration"] for r in reports]
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
    axes.grid(visible=False)
    _whole_steps(axes)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.figure.colorbar(image, ax=axes, label="x fair share", shrink=0.9)


def _heat(axes: Any, table: Any) -> Any:
    return axes.imshow(table, aspect="auto", cmap="RdBu_r", vmin=0, vmax=2, interpolation="nearest")


def _whole_steps(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

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
_HALVES: dict[str, Callable[[RunRecords, Any], None]] = {
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
