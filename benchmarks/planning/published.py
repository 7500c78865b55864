"""Errors of the time model of `ml-train plan` on published runs that its rates were not fitted to.

Needs no network and no device. About a minute. --write stores the fitted rates in the package.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ml_train.planning.time import rates
from ml_train.planning.time.errors import FEWEST_OTHERS, FORMS, Errors, errors
from ml_train.planning.time.published import PublishedRun, published_runs
from ml_train.planning.time.rates_file import rates_text
from ml_train.tables import Column, plain_text

RATES = Path(rates.__file__).with_name("data") / "rates.toml"


def percent(share: float | None) -> str:
    """A median, or a dash where no row counts."""
    return "-" if share is None else f"{share:.1%}"


def medians(result: Errors, name: str, group_of: Callable[[PublishedRun], str]) -> str:
    """A line per group: rows, and median errors of rows with experts and of dense ones."""
    columns = [
        Column(heading=name, is_text=True),
        *(Column(heading=text) for text in ("rows", "MoE", "model left out, MoE", "dense")),
        *(Column(heading=text) for text in ("device left out, MoE", "dense")),
    ]
    lines = []
    for group in sorted({group_of(run) for run in result.runs}):
        members = [run for run in result.runs if group_of(run) == group]
        cells = [group, str(len(members)), str(sum(run.is_moe for run in members))]
        for predicted in (result.by_model, result.by_device):
            for moe in (True, False):
                cells.append(
                    percent(
                        result.median(
                            predicted,
                            lambda run, group=group, moe=moe: (
                                group_of(run) == group and run.is_moe is moe
                            ),
                        )
                    )
                )
        lines.append(cells)
    return plain_text(columns, lines)


def rows_of(result: Errors, model: str) -> str:
    """A line per row of a model."""
    columns = [
        Column(heading="row", is_text=True),
        *(Column(heading=text) for text in ("published", "model left out", "device left out")),
    ]
    lines = [
        [run.id, f"{run.seconds:.2f} s", f"{by_model:.2f} s", f"{by_device:.2f} s"]
        for run, by_model, by_device in zip(
            result.runs, result.by_model, result.by_device, strict=True
        )
        if run.model == model
    ]
    return plain_text(columns, lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"Write the rates to {RATES.name}.")
    parser.add_argument("--rows", action="store_true", help="Print every row, the worst first.")
    args = parser.parse_args()
    runs = published_runs()
    chosen = None
    for form, host_ahead in FORMS.items():
        result = errors(runs, host_ahead=host_ahead)
        chosen = chosen or result
        print(f"Form: {form}")
        for words, predicted in (
            ("fitted to all rows", result.inside),
            ("model left out", result.by_model),
            ("device left out", result.by_device),
        ):
            moe = result.median(predicted, result.aimed_at)
            dense = result.median(predicted, lambda run: not run.is_moe)
            print(f"  {words}: median error {percent(moe)} of MoE rows, {percent(dense)} of dense")
    assert chosen is not None
    print(f"MoE rows are those of devices with at least {FEWEST_OTHERS} others.\n")
    print(medians(chosen, "device", lambda run: run.device_name), "\n")
    print(medians(chosen, "model", lambda run: run.model), "\n")
    print(rows_of(chosen, "Grok-1 314B"))
    print(f"\nFour of five rows lie within a factor of {chosen.fit.rates.spread:.2f}.")
    if args.rows:
        worst = sorted(
            zip(chosen.relative(chosen.by_model), runs, strict=True),
            reverse=True,
            key=lambda pair: pair[0],
        )
        for error, run in worst:
            print(f"{error:6.1%}  {run.id}")
    if args.write:
        RATES.write_text(rates_text(chosen.fit), encoding="utf-8")
        print(f"Wrote {RATES}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
