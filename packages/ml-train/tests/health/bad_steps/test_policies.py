"""Injected faults under each policy, on a tiny model; the faults depend on the data."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import BATCH, LENGTH, done, records, tokens, train

from ml_data.indexed.reader import IndexedDataset
from ml_models.megatron_core.lines import CORE_LINE
from ml_train.checkpoint.compare import compare
from ml_train.report.findings import findings
from ml_train.report.records import read_run

POISON = "100"  # of sample 15, in step 4
SPIKES = ("--check-for-spiky-loss", "--check-for-large-grads", "--spike-window", "3")
ROLLBACK = ("--nan-loss-policy", "rollback", "--save-interval", "2")


def bad_batch(folder: Path, step: int) -> dict[str, Any]:
    path = folder / "bad_batches" / f"step_{step:07d}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def tokens_of(sample: dict[str, Any]) -> list[int]:
    """Read what a bad batch names, by its byte offsets."""
    ids_read: list[int] = []
    for part in sample["parts"]:
        whole = IndexedDataset(part["prefix"])
        begin = part["byte_offset"] // whole.dtype.itemsize
        ids = whole.tokens[begin : begin + part["num_tokens"]].tolist()
        sequence = whole[part["sequence"]]
        assert ids == sequence[part["first_token"] :][: part["num_tokens"]].tolist()
        assert whole.document_indices[part["document"]] == part["sequence"]
        ids_read += ids
    return ids_read


def test_stop_writes_the_batch_out(tmp_path: Path) -> None:
    run = train(tmp_path / "run", tokens(tmp_path), loss={POISON: "nan"})
    assert run.code == 1
    assert "step 4 (samples 12 to 15 of the run): the loss is nan; the update was" in run.said
    document = bad_batch(tmp_path / "run", 4)
    facts = {key: document[key] for key in ("iteration", "samples", "kind", "policy", "errors")}
    assert facts == {
        "iteration": 4, "samples": [12, 15], "kind": "nan_loss", "policy": "stop", "errors": [],
    }  # fmt: skip
    micro_batches = document["data_ranks"][0]["micro_batches"]
    numbers = [
        [sample["sample"] for sample in micro_batch["samples"]] for micro_batch in micro_batches
    ]
    assert numbers == [[12], [13], [14], [15]]
    for micro_batch in micro_batches:
        ids = tokens_of(micro_batch["samples"][0])
        assert len(ids) == LENGTH + 1
        # The last token is a label only: it is not among the model's inputs.
        assert (micro_batch["loss"] == "nan") == (int(POISON) in ids[:-1])
    assert document["gradients"][0]["rank"] == 0
    assert document["gradients"][0]["coordinates"] == "tp0-pp0-ep0-etp0-cp0-dp0"
    error = records(tmp_path / "run", "error")[0]["text"]
    assert str(tmp_path / "run/bad_batches/step_0000004.json") in error


def learning_rates(folder: Path) -> dict[int, float]:
    return {entry["iteration"]: entry["learning_rate"] for entry in records(folder, "report")}


def test_skip_leaves_weights_and_schedule_and_has_a_bound(tmp_path: Path) -> None:
    prefix, save = tokens(tmp_path), tmp_path / "run"
    plain = tmp_path / "plain"
    done(train(plain, prefix, "--exit-interval", "4", "--save-interval", "3"))
    words = ("--nan-loss-policy", "skip", "--nan-grad-policy", "skip", "--save-interval", "4")
    output = done(train(save, prefix, *words, "--exit-interval", "5", loss={POISON: "inf"}))
    assert "skipped at step 4: step 4 (samples 12 to 15 of the run): the loss is inf" in output
    # Step 4 changed nothing: its checkpoint has the weights, moments and schedule of step 3.
    differing = [
        comparison.key
        for comparison in compare(plain / "iter_0000003", save / "iter_0000004")
        if not comparison.equal
    ]
    assert differing == ["run state"]
    rates = learning_rates(save)
    assert rates[5] == rates[4] == learning_rates(plain)[4]
    assert [entry["skipped_steps"] for entry in records(save, "report")] == [0, 0, 0, 1, 0]
    assert findings(read_run(save))[0].startswith("Skipped: step 4")
    stopped = train(
        tmp_path / "bound", prefix, *words, "--max-consecutive-skips", "0", gradient=[int(POISON)]
    )
    assert stopped.code == 1
    assert "but a gradient is not finite, after 0 skipped updates in a row" in stopped.said
    assert bad_batch(tmp_path / "bound", 4)["kind"] == "nan_grad"


def test_spikes(tmp_path: Path) -> None:
    prefix = tokens(tmp_path)
    words = (*SPIKES, "--spiky-loss-policy", "skip", "--exit-interval", "5")
    output = done(train(tmp_path / "loss", prefix, *words, loss={POISON: 8}))
    assert "skipped at step 4" in output and "above --spiky-loss-factor 2 x 6.93" in output
    state = json.loads((tmp_path / "loss/iter_0000005/run_state.json").read_text())["run"]
    made = [e for e in records(tmp_path / "loss", "report") if not e["skipped_steps"]]
    assert state["health"]["losses"] == [entry["loss"] for entry in made][-3:]
    stopped = train(
        tmp_path / "norm",
        prefix,
        "--check-for-large-grads",
        "--spike-window",
        "3",
        loss={POISON: 400},
    )
    assert stopped.code == 1
    assert "the gradient norm is" in stopped.said and "--large-grads-factor 10" in stopped.said


def same_as_without(tmp_path: Path, *words: str, processes: int = 1) -> Path:
    """A run that rolls back, against one that never saw the data between; returns the former."""
    prefix, save, never = tokens(tmp_path), tmp_path / "run", tmp_path / "never"
    named: dict[str, Any] = {"processes": processes}
    done(train(save, prefix, *ROLLBACK, *words, loss={POISON: "nan"}, **named))
    done(train(never, prefix, *ROLLBACK, *words, "--exit-interval", "2", **named))
    resumed = (*ROLLBACK, *words, "--load", str(never / "iter_0000002"))
    done(train(never, prefix, *resumed, move=[2, 4 * BATCH], **named))
    for step in (4, 6, 8):
        name = f"iter_{step:07d}"
        compared = list(compare(save / name, never / name))
        assert len(compared) > 40
        assert [comparison.key for comparison in compared if not comparison.equal] == ["run state"]
    runs = [
        [
            {key: entry[key] for key in ("iteration", "loss", "grad_norm", "consumed_samples")}
            for entry in read_run(folder).reports
        ]
        for folder in (save, never)
    ]
    assert runs[0] == runs[1]
    assert [entry["iteration"] for entry in runs[0]] == list(range(1, 9))
    assert runs[0][2]["consumed_samples"] == 5 * BATCH
    assert all(math.isfinite(entry["loss"]) for entry in runs[0])
    return save


def test_rollback_equals_a_run_that_never_saw_the_data(tmp_path: Path) -> None:
    save = same_as_without(tmp_path)
    text = records(save, "rollback")[0]["text"]
    assert "back to the last checkpoint, then on with sample 16 (1 of 3 rollbacks)" in text
    assert records(save, "resumed")[0]["iteration"] == 2
    state = json.loads((save / "iter_0000008/run_state.json").read_text())["run"]
    assert state["health"]["rollbacks"] == 1
    assert state["health"]["skipped_samples"] == [[2 * BATCH, 4 * BATCH - 1]]
    assert any(text.startswith("Rollback: step 4") for text in findings(read_run(save)))


def test_rollbacks_have_a_bound_and_need_a_checkpoint(tmp_path: Path) -> None:
    prefix = tokens(tmp_path)
    run = train(tmp_path / "run", prefix, *ROLLBACK, "--max-rollbacks", "2", after=2 * BATCH)
    assert run.code == 1
    assert "step 3 (samples 16 to 19 of the run): the loss is nan, after 2 rollbacks" in run.said
    assert [entry["iteration"] for entry in records(tmp_path / "run", "rollback")] == [3, 3]
    names = sorted(path.name for path in (tmp_path / "run/bad_batches").iterdir())
    assert names == ["step_0000003.json", "step_0000003_2.json", "step_0000003_3.json"]
    early = train(tmp_path / "early", prefix, *ROLLBACK[:3], "100", loss={POISON: "nan"})
    assert early.code == 1
    assert "No rollback: No checkpoint was saved yet." in early.said


def test_two_processes_decide_together(tmp_path: Path) -> None:
    """The poisoned micro batch is rank 1's alone."""
    save = tmp_path / "run"
    words = ("--expert-model-parallel-size", "2", *ROLLBACK)
    done(train(save, tokens(tmp_path), *words, processes=2, loss={POISON: "nan"}))
    document = bad_batch(save, 4)
    losses = [
        [micro_batch["loss"] for micro_batch in rank["micro_batches"]]
        for rank in document["data_ranks"]
    ]
    assert losses[1][1] == "nan" and all(isinstance(loss, float) for loss in losses[0])
    numbers = [
        [micro_batch["samples"][0]["sample"] for micro_batch in rank["micro_batches"]]
        for rank in document["data_ranks"]
    ]
    assert numbers == [[12, 14], [13, 15]]
    assert [entry["iteration"] for entry in read_run(save).reports] == list(range(1, 9))
    assert records(save, "resumed")[0]["iteration"] == 2


@pytest.mark.slow
def test_two_processes_roll_back_to_the_bit(tmp_path: Path) -> None:
    same_as_without(tmp_path, "--expert-model-parallel-size", "2", processes=2)


@pytest.mark.slow
@pytest.mark.skipif(CORE_LINE == "0.12", reason="distributed optimizer on the CPU")
def test_two_processes_roll_back_bf16_and_sharded(tmp_path: Path) -> None:
    words = ("--bf16", "--use-distributed-optimizer", "--overlap-grad-reduce")
    same_as_without(tmp_path, *words, processes=2)
