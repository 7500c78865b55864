"""What routers report does not depend on the layout, nor on recomputation."""

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import MODEL, done, records, tokens, train

FIGURES = ("loss", "aux_loss", "z_loss", "router_entropy", "expert_load")
WORDS = ("--moe-aux-loss-coeff", "0.01", "--moe-z-loss-coeff", "0.001", "--exit-interval", "3")
FOUR = tuple("num_experts=4" if word == "num_experts=2" else word for word in MODEL)
LAYOUTS = {
    "tp2": ("--tensor-model-parallel-size", "2"),
    "pp2": ("--pipeline-model-parallel-size", "2"),
    "ep2": ("--expert-model-parallel-size", "2"),
    "dp2": (),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("alone")
    prefix = tokens(folder)
    done(train(folder / "run", prefix, *WORDS, model=FOUR))
    return prefix, records(folder / "run", "report")


def flat(entry: dict[str, Any], name: str) -> list[float]:
    value = entry[name]
    rows = value if isinstance(value, list) else [value]
    return [x for row in rows for x in (row if isinstance(row, list) else [row])]


@pytest.mark.parametrize(
    "name",
    ["tp2", "ep2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("pp2", "dp2"))],
)
def test_layouts(alone: Any, name: str, tmp_path: Path) -> None:
    prefix, wanted = alone
    done(train(tmp_path, prefix, *WORDS, *LAYOUTS[name], processes=2, model=FOUR))
    found = records(tmp_path, "report")
    assert len(found) == 3
    for ours, theirs in zip(found, wanted, strict=True):
        for figure in FIGURES:
            assert flat(ours, figure) == pytest.approx(flat(theirs, figure), rel=1e-5), figure
    assert len(flat(wanted[0], "expert_load")) == 2 * 4
    assert all(sum(row) == pytest.approx(1) for row in wanted[0]["expert_load"])


@pytest.mark.parametrize(
    "words",
    [
        ("full", "--recompute-method", "uniform", "--recompute-num-layers", "1"),
        pytest.param(("selective",), marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_recomputation_counts_nothing_twice(alone: Any, words: Any, tmp_path: Path) -> None:
    prefix, wanted = alone
    done(train(tmp_path, prefix, *WORDS, "--recompute-granularity", *words, model=FOUR))
    for ours, theirs in zip(records(tmp_path, "report"), wanted, strict=True):
        for figure in (*FIGURES, "grad_norm"):
            assert ours[figure] == theirs[figure], figure
