"""Training from a converted checkpoint: the first loss is the public implementation's."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import done, records, train
from token_files import write_ids

from ml_models import cli as models_cli

REFERENCES = Path(__file__).parents[3] / "ml-models/tests/data/grok1"


@pytest.mark.parametrize(("name", "form"), [("hf_a", "huggingface"), ("xai_tiny", "xai")])
def test_the_first_loss_equals_the_references(name: str, form: str, tmp_path: Path) -> None:
    converted = tmp_path / "converted"
    source = REFERENCES / name
    further = ["--input", str(source), "--variant", "hpcai"]
    if form == "xai":
        further = ["--input", str(source / "ckpt-0"), "--config", str(source / "xai_config.json")]
    words = ["convert", "--from", form, "--to", "megatron", "--output", str(converted), *further]
    assert models_cli.main([*words, "--dtype", "fp32"]) == 0
    reference = load_file(REFERENCES / name / "reference.safetensors")
    length = reference["input_ids"].shape[1] - 1
    flags = ["--load", str(converted), "--no-load-optim", "--no-load-rng", "--train-iters", "1"]
    flags += ["--model-config", str(converted / "model_config.json"), "--seq-length", str(length)]
    losses = []
    for number, ids in enumerate(reference["input_ids"]):
        # A run per sequence: packed, the second one would begin with the last token of the first.
        run = tmp_path / f"run{number}"
        prefix = write_ids(tmp_path / f"tokens{number}", ids.tolist())
        output = done(train(run, prefix, *flags, "--split", "1,0,0", model=(), steps=()))
        assert "optimizer, schedule and step count start anew" in output
        (report,) = records(run, "report")
        assert report["iteration"] == 1
        losses.append(report["loss"])
        run_state = json.loads((run / "iter_0000001" / "run_state.json").read_text())
        assert run_state["optimizer"]["adam_step"] == 1
    mean = torch.tensor(sum(losses) / len(losses))
    wanted = reference.get("loss")
    if wanted is None:
        logits = reference["xai_fp32.logits"][:, :-1].flatten(0, 1)
        wanted = torch.nn.functional.cross_entropy(logits, reference["input_ids"][:, 1:].flatten())
    torch.testing.assert_close(mean, wanted.float(), rtol=1e-5, atol=0)
