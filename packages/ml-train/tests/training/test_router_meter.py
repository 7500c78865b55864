"""What routers report: by hand, and that it depends neither on the layout nor on recomputation."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from tiny_runs import MODEL, done, records, tokens, train

from ml_train.training import router_meter
from ml_train.training.router_meter import RouterMeter

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
    reports = records(tmp_path, "report")
    assert len(reports) == 3
    for report, expected in zip(reports, wanted, strict=True):
        for figure in FIGURES:
            assert flat(report, figure) == pytest.approx(flat(expected, figure), rel=1e-5), figure
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
    for report, expected in zip(records(tmp_path, "report"), wanted, strict=True):
        for figure in (*FIGURES, "grad_norm"):
            assert report[figure] == expected[figure], figure


class Router(torch.nn.Module):
    def __init__(self, layer_number: int):
        super().__init__()
        self.layer_number = layer_number
        self.observers: list[Callable[[torch.Tensor], None]] = []
        self.token_counts: torch.Tensor | None = None

    def see(self, logits: torch.Tensor) -> None:
        for observe in self.observers:
            observe(logits)


def test_router_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = SimpleNamespace(size=lambda: 1)
    for name in ("get_tensor_and_data_parallel_group", "get_pipeline_model_parallel_group"):
        monkeypatch.setattr(parallel_state, name, lambda: alone)
    values = torch.tensor([2.0, 4.0])
    tracker = {"load_balancing_loss": {"values": values, "reduce_group": alone}}
    monkeypatch.setattr(router_meter, "_tracker", lambda: tracker)
    chunk = torch.nn.ModuleList([Router(1), Router(2)])
    meter = RouterMeter([chunk], num_layers=2, num_experts=4)
    chunk[0].token_counts = torch.tensor([6.0, 2.0, 0.0, 0.0])
    chunk[1].token_counts = torch.tensor([1.0, 1.0, 1.0, 1.0])
    chunk[0].see(torch.zeros(3, 4))
    chunk[0].see(torch.tensor([[100.0, 0, 0, 0]]))
    chunk.eval()
    chunk[1].see(torch.zeros(3, 4))
    got = meter.collect(num_microbatches=2, device=torch.device("cpu"))
    assert got.expert_load == [[0.75, 0.25, 0, 0], [0.25] * 4]
    assert got.router_entropy == pytest.approx([0.75 * 1.3862943, 0.0])
    assert got.aux_loss == 1.5 and got.z_loss is None
    assert values.tolist() == [0.0, 0.0] and chunk[0].token_counts is None
    again = meter.collect(num_microbatches=2, device=torch.device("cpu"))
    assert again.expert_load == [[0.0] * 4] * 2 and again.aux_loss is None
