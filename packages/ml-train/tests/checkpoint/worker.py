"""What the tests run on two processes: torchrun worker.py FOLDER SCENARIO...

Each scenario leaves FOLDER/SCENARIO.json with what the tests look at.
"""

# ruff: noqa: E402 (megatron-core is imported once it can be)

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ml_models.platforms import get_platform, make_core_importable

sys.path.insert(0, str(Path(__file__).parent))
make_core_importable()

from small_run import SmallRun

import ml_models.grok1.spec
import ml_models.layers.model  # noqa: F401
from ml_models.files import durable
from ml_models.process_groups import destroy_process_groups
from ml_train.checkpoint import compare
from ml_train.checkpoint.manager import CheckpointManager
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.errors import CheckpointError
from ml_train.training.callbacks.checkpoint import CheckpointCallback
from ml_train.training.callbacks.signals import SignalCallback

STEPS, SAVED = 5, 2


class Bench:
    """Runs and managers over one folder; collects what was said."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.said: list[str] = []

    def manager(self, **settings: Any) -> CheckpointManager:
        values = {"save": str(self.folder), "load": str(self.folder), **settings}
        return CheckpointManager(CheckpointSection(**values), say=self.said.append)

    def train(
        self, run: SmallRun, manager: CheckpointManager, *, start: int, save_at: tuple[int, ...]
    ) -> list[float]:
        losses = []
        for step in range(start, STEPS):
            losses.append(run.step(step))
            manager.poll()
            if step + 1 in save_at:
                manager.save(run, {"iteration": step + 1, "consumed_samples": 8 * (step + 1)})
        manager.wait()
        return losses


def resume(bench: Bench, layout: dict[str, Any]) -> dict[str, Any]:
    """Uninterrupted against saved and loaded, on the same layout."""
    first = SmallRun(**layout)
    losses = bench.train(first, bench.manager(), start=0, save_at=(SAVED,))
    again = SmallRun(**layout)
    state = bench.manager().load(again)
    assert state is not None
    resumed = bench.train(again, bench.manager(), start=state.iteration, save_at=())
    return {
        "losses": losses[SAVED:],
        "resumed": resumed,
        "digests": [first.digest(), again.digest()],
        "consumed_samples": state.consumed_samples,
    }


def reshard(bench: Bench, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Saved under one layout, loaded under another and saved again at once."""
    first = SmallRun(**before)
    losses = bench.train(first, bench.manager(), start=0, save_at=(SAVED,))
    again = SmallRun(**after)
    state = bench.manager().load(again)
    assert state is not None
    other = Bench(bench.folder / "again")
    other.manager(load=None).save(again, state, in_background=False)
    resumed = bench.train(again, bench.manager(), start=SAVED, save_at=())
    names = [f"iter_{SAVED:07d}", f"again/iter_{SAVED:07d}"]
    differing = [
        comparison.key
        for comparison in compare.compare(*(bench.folder / name for name in names))
        if not comparison.equal
    ]
    return {"losses": losses[SAVED:], "resumed": resumed, "differing": differing}


def in_background(bench: Bench) -> dict[str, Any]:
    """The same run without saves, with saves in the foreground and in the background."""
    digests = []
    for number, save_at in enumerate(((), (1, 2, 3), (1, 2, 3))):
        run = SmallRun(ep=2)
        inner = Bench(bench.folder / str(number))
        inner.train(run, inner.manager(async_save=number == 2), start=0, save_at=save_at)
        digests.append(run.digest())
    folders = [bench.folder / str(number) / "iter_0000003" for number in (1, 2)]
    return {
        "digests": digests,
        "equal": all(comparison.equal for comparison in compare.compare(*folders)),
    }


def full_disk(bench: Bench) -> dict[str, Any]:
    """Rank 1 cannot write during the second of three saves: the kernel's own answer."""
    run, manager = SmallRun(ep=2), bench.manager()
    original = durable.create

    def create(path: Path) -> Any:
        return original(Path("/dev/full") if dist.get_rank() == 1 else path)

    names, outcomes = [], []
    for step in range(3):
        run.step(step)
        durable.create = create if step == 1 else original
        manager.save(run, {"iteration": step + 1, "consumed_samples": 0})
        outcome = manager.wait()
        assert outcome is not None
        outcomes.append(outcome.error)
        dist.barrier()
        names.append(sorted(path.name for path in bench.folder.iterdir()))
    durable.create = original
    again = SmallRun(ep=2)
    state = bench.manager().load(again)
    return {"names": names, "errors": outcomes, "said": bench.said, "iteration": state.iteration}


def slow_disk(bench: Bench) -> dict[str, Any]:
    """Rank 1 writes for longer than any collective may take, in the background and not."""
    run = SmallRun(ep=2)
    manager = CheckpointManager(
        CheckpointSection(save=str(bench.folder)),
        say=bench.said.append,
        timeout=timedelta(seconds=2),
    )
    original = durable.create

    def create(path: Path) -> Any:
        if dist.get_rank() == 1 and path.suffix == ".distcp":
            time.sleep(3)
        return original(path)

    durable.create = create
    errors = []
    for step in range(2):
        run.step(step)
        outcome = manager.save(run, {"iteration": step + 1}, in_background=step == 0)
        outcome = outcome or manager.wait()
        assert outcome is not None
        errors.append(outcome.error)
    durable.create = original
    dist.barrier()
    return {"errors": errors, "names": sorted(path.name for path in bench.folder.iterdir())}


def refusals(bench: Bench) -> dict[str, Any]:
    """Checkpoints that do not fit or are damaged."""
    run, manager = SmallRun(ep=2), bench.manager(async_save=False)
    for step in range(2):
        run.step(step)
        manager.save(run, {"iteration": step + 1, "consumed_samples": 0})
    texts = {}

    def attempt(name: str, target: SmallRun, **settings: Any) -> None:
        try:
            state = bench.manager(**settings).load(target)
            texts[name] = f"loaded {state.iteration if state else None}"
        except CheckpointError as error:
            texts[name] = str(error)

    attempt("other model", SmallRun(ep=2, model={"attention_logit_cap": None}))
    attempt("other layout", SmallRun(pp=2))
    run = SmallRun(ep=2)
    attempt("nothing there", run, load=str(bench.folder / "absent"))
    attempt("first start", run, load=str(bench.folder / "new"), save=str(bench.folder / "new"))
    attempt("one of them", run, load=str(bench.folder / "iter_0000001"))
    inner = Bench(bench.folder / "small")
    inner.manager(no_save_optim=True).save(run, {"iteration": 2}, in_background=False)
    attempt("no optimizer", run, load=str(inner.folder))
    attempt("model alone", run, load=str(inner.folder), no_load_optim=True, no_load_rng=True)
    if dist.get_rank() == 0:
        with (bench.folder / "iter_0000002" / "__1_0.distcp").open("r+b") as stream:
            stream.seek(1000)
            stream.write(b"x")
    dist.barrier()
    told_before = len(bench.said)
    attempt("damaged", run)
    texts["passed over"] = " ".join(bench.said[told_before:])
    attempt("damaged by name", run, load=str(bench.folder / "iter_0000002"))
    if dist.get_rank() == 0:
        (bench.folder / "iter_0000001" / "COMPLETE").unlink()
    dist.barrier()
    attempt("none whole", run)
    return texts


class TinyTrainer:
    """As much of a Trainer as the callbacks see."""

    def __init__(self, run: SmallRun):
        self.train_module, self.iteration, self.callbacks, self.reason = run, 0, [], ""

    def run_state(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "consumed_samples": 8 * self.iteration}

    def request_stop(self, reason: str) -> None:
        self.reason = reason

    def fit(self, steps: int, at_step: Any) -> None:
        for callback in self.callbacks:
            callback.on_train_start(self)
        while self.iteration < steps and not self.reason:
            self.train_module.step(self.iteration)
            at_step(self.iteration)
            self.iteration += 1
            for callback in self.callbacks:
                callback.on_step_end(self, None)
        for callback in self.callbacks:
            callback.on_train_end(self)


def signals(bench: Bench) -> dict[str, Any]:
    """One rank of two gets SIGUSR1 in the middle of step 3."""
    trainer = TinyTrainer(SmallRun(ep=2))
    trainer.callbacks = [
        CheckpointCallback(bench.manager(save_interval=2, keep_last=1)),
        SignalCallback(limit_seconds=60),
    ]

    def at_step(step: int) -> None:
        if step == 2 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    trainer.fit(10, at_step)
    return {
        "iteration": trainer.iteration,
        "reason": trainer.reason,
        "names": sorted(path.name for path in bench.folder.iterdir()),
        "handler": signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL,
    }


DISTRIBUTED = {"distributed_optimizer": True}
SCENARIOS: dict[str, Any] = {
    "resume_ep2": lambda b: resume(b, {"ep": 2}),
    "resume_pp2_bf16": lambda b: resume(b, {"pp": 2, "bf16": True}),
    "resume_tp2": lambda b: resume(b, {"tp": 2, "etp": 2}),
    "resume_ep2_bf16_distributed": lambda b: resume(b, {"ep": 2, "bf16": True, **DISTRIBUTED}),
    "resume_dp2_distributed": lambda b: resume(b, DISTRIBUTED),
    "reshard_ep2_to_tp2": lambda b: reshard(b, {"ep": 2}, {"tp": 2, "etp": 2}),
    "reshard_pp2_to_dp2_distributed": lambda b: reshard(b, {"pp": 2}, DISTRIBUTED),
    "reshard_ep2_distributed_to_pp2": lambda b: reshard(b, {"ep": 2, **DISTRIBUTED}, {"pp": 2}),
    "reshard_bf16_distributed_to_tp2": lambda b: reshard(
        b, {"ep": 2, "bf16": True, **DISTRIBUTED}, {"tp": 2, "etp": 2, "bf16": True}
    ),
    "four_tp2_ep2_to_pp2_ep2": lambda b: reshard(
        b, {"tp": 2, "ep": 2, "etp": 1, **DISTRIBUTED}, {"pp": 2, "ep": 2}
    ),
    "four_pp2_tp2_to_etp2_ep2": lambda b: reshard(
        b, {"pp": 2, "tp": 2, "etp": 2}, {"tp": 2, "etp": 2, "ep": 2, **DISTRIBUTED}
    ),
    "four_resume_tp2_pp2": lambda b: resume(b, {"tp": 2, "pp": 2, "etp": 1, "ep": 2}),
    "in_background": in_background,
    "full_disk": full_disk,
    "slow_disk": slow_disk,
    "refusals": refusals,
    "signals": signals,
}


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    platform = get_platform("cpu")
    platform.apply()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    with platform.context():
        for name in names:
            result = SCENARIOS[name](Bench(folder / name))
            everywhere: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everywhere, result)
            if dist.get_rank() == 0:
                text = json.dumps({"ranks": everywhere}, indent=1)
                (folder / f"{name}.json").write_text(text, encoding="utf-8")
    destroy_process_groups()


if __name__ == "__main__":
    main()
