"""Layouts and settings on the simulated devices: the losses are the CPU's."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from device_runs import environment, train
from tiny_runs import done, records, tokens

DISTRIBUTED = ("--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather")
COMPARED = ("loss", "aux_loss", "z_loss", "grad_norm")
CASES = {
    "tp2 pp2 ep2": (
        *("--tensor-model-parallel-size", 2, "--pipeline-model-parallel-size", 2),
        *("--expert-model-parallel-size", 2, "--expert-tensor-parallel-size", 1),
        "--sequence-parallel",
    ),
    "uneven ep2 etp2": (
        *("--tensor-model-parallel-size", 2, "--expert-model-parallel-size", 2),
        *("--expert-tensor-parallel-size", 2, "--sequence-parallel"),
    ),
    "virtual stages, recompute, both overlaps": (
        *("--pipeline-model-parallel-size", 2, "--num-layers-per-virtual-pipeline-stage", 1),
        *("--recompute-granularity", "full", "--recompute-method", "uniform"),
        *("--recompute-num-layers", 1, *DISTRIBUTED),
    ),
    "z-loss, capacity": (
        *("--expert-model-parallel-size", 2, "--moe-z-loss-coeff", 1e-3),
        *("--moe-expert-capacity-factor", 1.0),
    ),
    "bf16, main weights in fp32": ("--bf16", "--use-distributed-optimizer"),
}


# The layouts on the second kind of device; settings and checkpoints do not depend on the kind.
ON_CUDA = list(CASES)[:3]
ON_DEVICES = [("npu", case) for case in CASES] + [("cuda", case) for case in ON_CUDA]

Figures = list[list[float]]


def figures(folder: Path, prefix: str, case: str, device: str) -> Figures:
    """What each step of a run says: loss, auxiliary losses and norm of the gradients."""
    done(train(folder, prefix, *CASES[case], device=device, processes=4, fused=True))
    steps = records(folder, "report")
    return [[step[name] for name in COMPARED if step[name] is not None] for step in steps]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Figures]:
    """The figures of a case on the CPU, which runs once."""
    folder = tmp_path_factory.mktemp("cpu")
    prefix = tokens(folder)
    return functools.cache(lambda case: figures(folder / case, prefix, case, "cpu"))


@pytest.mark.parametrize(("device", "case"), ON_DEVICES)
def test_losses_are_those_of_the_cpu(
    tmp_path: Path, on_cpu: Callable[[str], Figures], device: str, case: str
) -> None:
    environment(device)  # skips before the CPU runs
    wanted = on_cpu(case)
    assert len(wanted) == 4
    on_device = figures(tmp_path / "run", tokens(tmp_path), case, device)
    # The same kernels in nearly the same order: norms and gathers of unequal pieces go another way.
    for step, (values, wanted_values) in enumerate(zip(on_device, wanted, strict=True), start=1):
        assert values == pytest.approx(wanted_values, rel=1e-6), step


def test_deterministic_runs_are_equal_to_the_bit(tmp_path: Path) -> None:
    prefix, layout = tokens(tmp_path), ("--expert-model-parallel-size", 2)
    # Scripts that were written for transfer_to_npu say nccl.
    words = (*layout, "--deterministic-mode", "--distributed-backend", "nccl")
    runs = []
    for name in ("first", "second"):
        done(train(tmp_path / name, prefix, *words, device="npu", processes=2))
        steps = records(tmp_path / name, "report")
        runs.append([(step["loss"], step["grad_norm"]) for step in steps])
    assert len(runs[0]) == 4
    assert runs[0] == runs[1]
