"""Fits the rates of a time model to published runs, and says how wrong it is on others.

The rates are few: shares of peaks by dtype, links, the host, and a factor for each device. They
minimise Huber's loss of the logarithm of predicted over published seconds, beside a penalty for
leaving the range that is usual for such a rate (a Gaussian prior of its logarithm). Rows that a fit
leaves out do not enter it: errors are of models, or devices, that the fit has not seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ml_train.planning.time.published import PublishedRun
from ml_train.planning.time.rates import Rates
from ml_train.planning.time.step_time import step_time

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What is usual for a rate."""

    median: float
    spread: float
    """Standard deviation of its logarithm."""


PRIORS: dict[str, Prior] = {
    "bfloat16": Prior(median=0.70, spread=0.2),
    "float8": Prior(median=0.60, spread=0.25),
    "float4": Prior(median=0.45, spread=0.3),
    "attention_share": Prior(median=0.60, spread=0.3),
    "memory_share": Prior(median=0.60, spread=0.3),
    "intra_node_share": Prior(median=0.60, spread=0.4),
    "inter_node_share": Prior(median=0.60, spread=0.4),
    "seconds_per_kernel": Prior(median=5e-6, spread=0.5),
    "seconds_per_routing": Prior(median=1.5e-3, spread=0.7),
    "exposed_share": Prior(median=0.30, spread=0.4),
    "captured_share": Prior(median=0.50, spread=0.5),
    "overlapped_share": Prior(median=0.50, spread=0.5),
    "imbalance": Prior(median=1.15, spread=0.15),
}
"""By the name of a field of Rates, or of a dtype in product_share."""

DTYPES = ("bfloat16", "float8", "float4")
DEVICE_SPREAD = 0.15
"""Of the logarithm of a device's factor, whose median is 1."""
NOISE = 0.15
"""Usual relative error of a row: software releases alone change published times by as much."""
HUBER = 1.345
"""Multiples of NOISE beyond which an error counts linearly."""
ROUNDS = 9
FRESH_SLOPES = (0, 2, 5)
"""Rounds that compute derivatives, which cost as much as fifteen others."""
STEP = 1e-3
"""Change of a logarithm for a numerical derivative."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Rates that were fitted, and the slowness of each device."""

    rates: Rates
    slower: dict[str, float]
    """By the collection's name of a device, relative to its peaks. 1 for a device not seen."""

    def of(self, run: PublishedRun) -> Rates:
        """The rates of the run's device."""
        return self.rates.slower(self.slower.get(run.device_name, 1.0))


class Fitter:
    """Fits to all rows or to a part of them. A fit starts at the priors and sees its rows only."""

    def __init__(self, runs: Sequence[PublishedRun], *, host_ahead: float = 1.0) -> None:
        self.runs = runs
        self._host_ahead = host_ahead
        self._devices = sorted({run.device_name for run in runs})
        medians = [prior.median for prior in PRIORS.values()]
        self._center = np.log([*medians, *(1.0 for _ in self._devices)])
        spreads = [prior.spread for prior in PRIORS.values()]
        self._widths = np.array([*spreads, *(DEVICE_SPREAD for _ in self._devices)])
        self._observed = np.log([run.seconds for run in runs])

    def fit(self, included: NDArray[np.bool_] | None = None) -> Fit:
        """Rates from the rows that are included; None for all of them."""
        everything = np.ones(len(self.runs))
        return self._solve(everything if included is None else included.astype(float))

    def seconds(self, fit: Fit) -> Vector:
        """Predicted seconds of all rows."""
        return np.array(
            [step_time(run.work, run.device, fit.of(run)).expected for run in self.runs]
        )

    def _solve(self, weights: Vector) -> Fit:
        """Gauss-Newton steps with reweighting by Huber's loss."""
        logs = self._center.copy()
        slopes = np.zeros(0)
        for number in range(ROUNDS):
            predicted = np.log(self.seconds(self._as_fit(logs)))
            if number in FRESH_SLOPES:
                slopes = self._slopes(logs, predicted) / NOISE
            errors = (self._observed - predicted) / NOISE
            robust = weights * np.minimum(1, HUBER / np.maximum(np.abs(errors), 1e-9))
            normal = slopes.T @ (slopes * robust[:, None]) + np.diag(self._widths**-2.0)
            gradient = slopes.T @ (errors * robust) + (self._center - logs) / self._widths**2
            logs = logs + np.clip(np.linalg.solve(normal, gradient), -0.7, 0.7)
        return self._as_fit(logs)

    def _slopes(self, logs: Vector, predicted: Vector) -> Vector:
        columns = []
        for index in range(len(PRIORS)):
            moved = logs.copy()
            moved[index] += STEP
            change = np.log(self.seconds(self._as_fit(moved))) - predicted
            columns.append(change / STEP)
        # Devices' factors change only their own rows: a single evaluation serves all of them.
        moved = logs.copy()
        moved[len(PRIORS) :] += STEP
        change = (np.log(self.seconds(self._as_fit(moved))) - predicted) / STEP
        names = np.array([run.device_name for run in self.runs])
        columns += [np.where(names == device, change, 0.0) for device in self._devices]
        return np.stack(columns, axis=1)

    def _as_fit(self, logs: Vector) -> Fit:
        values = dict(zip(PRIORS, np.exp(logs).tolist(), strict=False))
        products = {name: values.pop(name) for name in DTYPES}
        # Neither is fitted: published runs compute in neither of them.
        products |= {"float16": products["bfloat16"], "float32": products["bfloat16"]}
        rates = Rates(
            product_share=products,
            host_ahead=self._host_ahead,
            source=f"fitted to {len(self.runs)} published runs",
            **values,
        )
        slower = dict(zip(self._devices, np.exp(logs[len(PRIORS) :]).tolist(), strict=True))
        return Fit(rates=rates, slower=slower)


def left_out(fitter: Fitter, group_of: Callable[[PublishedRun], str]) -> Vector:
    """Predicted seconds of each row by the fit to the rows of all other groups."""
    groups = [group_of(run) for run in fitter.runs]
    predicted = np.empty(len(groups))
    for group in sorted(set(groups)):
        inside = np.array([name == group for name in groups])
        predicted[inside] = fitter.seconds(fitter.fit(~inside))[inside]
    return predicted


def with_spread(fit: Fit, predicted: Vector, runs: Sequence[PublishedRun]) -> Fit:
    """The fit with a range that holds four of five rows with experts, as predicted unseen."""
    logs = np.abs(np.log(predicted / np.array([run.seconds for run in runs])))
    factor = float(np.quantile(logs[[run.is_moe for run in runs]], 0.8))
    return replace(fit, rates=replace(fit.rates, spread=float(np.exp(factor))))
