"""However a run ends, its last state is saved before anything that takes long."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from torch import distributed

from ml_models import registry
from ml_models.process_groups import backends_outlive_groups
from ml_train.commands import pretrain as command
from ml_train.config import flags
from ml_train.config.load import load_config
from ml_train.training.callbacks.base import Callback
from ml_train.training.callbacks.signals import SignalCallback
from ml_train.training.timing import StepTimers
from ml_train.training.train_module import LossSum, StepResult
from ml_train.training.trainer import Trainer


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    yield
    with backends_outlive_groups():
        parallel_state.destroy_model_parallel()
        distributed.destroy_process_group()


class Module:
    """A TrainModule whose steps do nothing but note themselves and, at one of them, act."""

    def __init__(self, log: list[str], act: dict[str, Any]):
        self.model_config = registry.get("grok1-tiny")
        self.layout = SimpleNamespace(global_batch_size=1, num_microbatches=1, world=1)
        self.model_chunks: list[Any] = []
        self.needs_data = False
        self._log, self._act, self._count = log, act, {"step": 0, "eval": 0}

    def _note(self, kind: str) -> None:
        self._count[kind] += 1
        name = f"{kind} {self._count[kind]}"
        self._log.append(name)
        self._act.get(name, lambda: None)()

    def train_step(self, batches: Any, *, before_update: Any) -> StepResult:
        self._note("step")
        return StepResult(loss=1.0, grad_norm=1.0, learning_rate=0.1, skipped=False)

    def eval_step(self, batches: Any) -> LossSum:
        self._note("eval")
        return LossSum(total=1.0, num_targets=1)

    def sync_parameters(self) -> None:
        pass


class Saves(Callback):
    def __init__(self, log: list[str]):
        self._log = log

    def on_last_step(self, trainer: Any) -> None:
        self._log.append("save")
        trainer.saved = Path("run/iter")

    def on_validation_end(self, trainer: Any, losses: dict[str, float]) -> None:
        self._log.append("validated")


def run(words: str, act: dict[str, Any] | None = None, test: Any = None) -> tuple[Any, list[str]]:
    log: list[str] = []
    config = load_config(flags.parse(["--save", "run", "--data-path", "p", *words.split()])).config
    device = torch.device("cpu")
    trainer = Trainer(
        config=config,
        train_module=Module(log, act or {}),  # type: ignore[arg-type]
        loaders=SimpleNamespace(train=None, valid=object(), test=test),  # type: ignore[arg-type]
        platform=SimpleNamespace(
            device=device, peak_tflops=lambda dtype: None, memory_bytes=lambda: 0
        ),
        timers=StepTimers(),
        callbacks=[Saves(log), SignalCallback(limit_seconds=60)],
    )
    before = signal.getsignal(signal.SIGINT)
    trainer.fit()
    assert signal.getsignal(signal.SIGINT) is before
    return trainer, log


def kill(number: signal.Signals) -> Any:
    return lambda: os.kill(os.getpid(), number)


NAMES = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP]


@pytest.mark.parametrize("number", NAMES)
def test_a_signal_in_a_step_saves_and_leaves(number: signal.Signals) -> None:
    words = "--train-iters 9 --eval-iters 5 --eval-interval 2"
    trainer, log = run(words, {"step 2": kill(number)}, test=object())
    assert log == ["step 1", "step 2", "save"]
    assert trainer.stop_signal == number


@pytest.mark.parametrize("number", NAMES)
def test_a_signal_in_a_validation_breaks_it_off(number: signal.Signals) -> None:
    words = "--train-iters 9 --eval-iters 50 --eval-interval 2"
    trainer, log = run(words, {"eval 3": kill(number)}, test=object())
    assert log == ["step 1", "step 2", "eval 1", "eval 2", "eval 3", "save"]
    assert trainer.iteration == 2


def test_the_end_of_the_run_is_saved_before_its_validation_and_test() -> None:
    words = "--train-iters 2 --eval-iters 2 --eval-interval 2"
    _, log = run(words, test=object())
    assert log == ["step 1", "step 2", "save", "eval 1", "eval 2", "validated"] + [
        "eval 3",
        "eval 4",
        "validated",
    ]
    _, log = run(words, {"eval 3": kill(signal.SIGTERM)}, test=object())
    assert log[-2:] == ["validated", "eval 3"]


def test_exit_interval_saves_first_and_then_validates() -> None:
    _, log = run("--train-iters 9 --eval-iters 1 --eval-interval 2 --exit-interval 4")
    assert log[-4:] == ["step 4", "save", "eval 2", "validated"]


def test_exit_duration_is_looked_at_in_a_validation_and_leaves_the_rest_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)

    def tick() -> float:
        clock.now += 0.001
        return float(clock.now)

    monkeypatch.setattr("time.perf_counter", tick)
    words = "--train-iters 9 --eval-iters 50 --eval-interval 2 --exit-duration-in-mins 1"

    def later() -> None:
        clock.now += 100

    trainer, log = run(words, {"eval 2": later})
    assert log == ["step 1", "step 2", "eval 1", "eval 2", "save"]
    assert trainer.stop_reason == "--exit-duration-in-mins 1" and trainer.stop_signal is None
    _, log = run(words, {"step 2": later})
    assert log == ["step 1", "step 2", "save"]


@pytest.mark.parametrize(
    ("number", "saved", "code"),
    [
        (None, False, 0),
        (signal.SIGTERM, True, 0),
        (signal.SIGUSR1, True, 0),
        (signal.SIGTERM, False, 143),
        (signal.SIGINT, True, 130),
        (signal.SIGINT, False, 130),
        (signal.SIGHUP, True, 129),
    ],
)
def test_exit_codes(number: int | None, saved: bool, code: int) -> None:
    trainer: Any = SimpleNamespace(stop_signal=number, saved=Path("x") if saved else None)
    assert command._exit_code(trainer) == code


def test_what_was_started_to_be_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer, log = run("--train-iters 3", {"step 1": kill(signal.SIGHUP)})
        assert trainer.iteration == 3 and trainer.stop_signal is None
    finally:
        signal.signal(signal.SIGHUP, before)
