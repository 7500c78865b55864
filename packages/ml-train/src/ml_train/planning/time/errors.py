"""How wrong the time model is on published runs that its rates were not fitted to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ml_train.planning.time.fit import Fit, Fitter, Vector, left_out, with_spread
from ml_train.planning.time.published import PublishedRun

FEWEST_OTHERS = 5
"""A median over devices counts those that have so many other rows."""

FORMS = {"the host runs ahead of the device": 1.0, "the host waits for every kernel": 0.0}
"""Forms of the model: Rates.host_ahead. The first is used."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Predictions of rows by fits that left them out."""

    runs: Sequence[PublishedRun]
    by_model: Vector
    """Seconds by the fit without any row of the row's model."""
    by_device: Vector
    """Seconds by the fit without any row of the row's device."""
    inside: Vector
    """Seconds by the fit to all rows."""
    fit: Fit
    """To all rows; its range holds four of five MoE rows, each predicted without its model."""

    def relative(self, predicted: Vector) -> Vector:
        """|predicted / published - 1| of every row."""
        published = np.array([run.seconds for run in self.runs])
        shares: Vector = np.abs(predicted / published - 1)
        return shares

    def median(self, predicted: Vector, chosen: Callable[[PublishedRun], bool]) -> float | None:
        """Of the chosen rows; None without any."""
        mask = np.array([chosen(run) for run in self.runs])
        return float(np.median(self.relative(predicted)[mask])) if mask.any() else None

    def aimed_at(self, run: PublishedRun) -> bool:
        """Whether a row counts for the aim: a model with experts on a device with enough rows."""
        same = sum(other.device_name == run.device_name and other.is_moe for other in self.runs)
        return run.is_moe and same > FEWEST_OTHERS


def errors(runs: Sequence[PublishedRun], *, host_ahead: float = 1.0) -> Errors:
    """Fit to all rows but those of a model, or of a device, for every model and every device."""
    fitter = Fitter(runs, host_ahead=host_ahead)
    fit = fitter.fit()
    by_model = left_out(fitter, lambda run: run.model)
    return Errors(
        runs=runs,
        by_model=by_model,
        by_device=left_out(fitter, lambda run: run.device_name),
        inside=fitter.seconds(fit),
        fit=with_spread(fit, by_model, runs),
    )
