"""How pictures of runs and plans look, drawn with matplotlib without a display."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#2f6db3", "#d9742b", "#3f8f5b", "#7a8190"
STYLE = {
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


@contextmanager
def blank_figure(size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    """A figure of `size` inches with a single drawing area. It is drawn and saved inside."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()
