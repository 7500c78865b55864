"""The launchers and thin tools as a user calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ml_data

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "data"
TINY = ROOT / "examples" / "grok1" / "pretrain_grok1_tiny.sh"
LARGE = ROOT / "examples" / "grok1" / "pretrain_grok1_40b_ptd.sh"
GROK2_TINY = ROOT / "examples" / "grok2" / "pretrain_grok2_tiny.sh"
GROK2 = ROOT / "examples" / "grok2" / "pretrain_grok2_19b.sh"


def run(
    command: list[object], timeout: int = 400, **environment: str
) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("tokens") / "alpaca"
    done = run([sys.executable, "tools/preprocess_data.py",
                "--input", DATA / "alpaca_sample.parquet",
                "--tokenizer-name-or-path", DATA / "grok1_tokenizer",
                "--output-prefix", prefix, "--workers", 2, "--log-interval", 1000,
                "--tokenizer-type", "PretrainedFromHF", "--append-eod"])  # fmt: skip
    assert done.returncode == 0, done.stderr
    return prefix.with_name("alpaca_text_document")


def test_megatron_core_reads_the_token_files(tokens: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    data, reference = ml_data.IndexedDataset(tokens), IndexedDataset(str(tokens))
    assert len(reference) == len(data) == 953
    assert np.array_equal(reference.document_indices, data.document_indices)
    assert all(np.array_equal(reference[i], data[i]) for i in range(len(data)))


def test_tiny_launcher_trains_and_resumes(tokens: Path, tmp_path: Path) -> None:
    layout = {"GPUS_PER_NODE": "2", "TP": "1", "PP": "1", "EP": "2"}
    environment = {"DATA_PATH": str(tokens), "CKPT_SAVE_DIR": str(tmp_path / "run"), **layout}
    short = ["--global-batch-size", "4", "--eval-iters", "1", "--log-interval", "1"]
    first = run(["bash", TINY, "--train-iters", "2", "--save-interval", "2", *short], **environment)
    assert first.returncode == 0, first.stdout + first.stderr
    marker = tmp_path / "run" / "iter_0000002" / "COMPLETE"
    assert marker.exists()
    second = run(
        ["bash", TINY, "--train-iters", "3", "--save-interval", "3", *short], **environment
    )
    assert second.returncode == 0, second.stdout + second.stderr
    assert (tmp_path / "run" / "iter_0000003" / "COMPLETE").exists()


def test_pretrain_in_bf16_with_a_blend_for_each_split(tokens: Path, tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", 2, "-m", "ml_train.cli", "pretrain",
                "--model", "grok1-tiny", "--tensor-model-parallel-size", 2, "--bf16",
                "--expert-tensor-parallel-size", 2, "--seq-length", 64, "--train-iters", 2,
                "--global-batch-size", 2, "--eval-iters", 1, "--eval-interval", 2,
                "--train-data-path", "0.7", tokens, "0.3", tokens, "--valid-data-path", tokens,
                "--test-data-path", tokens, "--data-cache-path", tmp_path / "indexes"])  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2/2" in done.stdout
    assert "validation at step 2: loss 11." in done.stdout
    assert "validation at step 2: test_loss 11." in done.stdout


def test_a_layout_that_does_not_fit_is_one_sentence(tokens: Path) -> None:
    done = run(["ml-train-launch", "--standalone", "--nproc-per-node", 3, "-m", "ml_train.cli",
                "pretrain", "--model", "grok1-tiny", "--tensor-model-parallel-size", 3,
                "--data-path", tokens])  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("ml-train: error:") == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "3" in done.stderr.split("ml-train: error:")[1].splitlines()[0]


def test_another_models_checkpoint_is_refused_before_anything_is_built(
    tokens: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "iter_0000002"
    folder.mkdir(parents=True)
    for name in ("model_config.json", "run_state.json"):
        (folder / name).write_text("{}")
    done = run([sys.executable, "-m", "ml_train.cli", "pretrain", "--model", "grok1-40b",
                "--load", tmp_path / "run", "--data-path", tokens], timeout=100)  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("ml-train: error:"), done.stderr


def launcher_arguments(script: Path, tmp_path: Path, **environment: str) -> list[str]:
    """What `script` hands to the launcher of processes."""
    stub = tmp_path / "bin" / "ml-train-launch"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    path = f"{stub.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script), "--train-iters", "7"],
        env={**os.environ, **environment, "PATH": path},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_large_launcher_keeps_the_guide_variables(tmp_path: Path) -> None:
    arguments = launcher_arguments(LARGE, tmp_path)
    for flag, value in {
        "--nproc-per-node": "8",
        "--nnodes": "2",
        "--tensor-model-parallel-size": "4",
        "--pipeline-model-parallel-size": "2",
        "--expert-model-parallel-size": "2",
        "--expert-tensor-parallel-size": "4",
        "--model": "grok1-40b",
    }.items():
        assert arguments[arguments.index(flag) + 1] == value
    assert "--overlap-grad-reduce" in arguments and "--no-shared-storage" not in arguments
    assert arguments[-2:] == ["--train-iters", "7"]


def test_large_launcher_takes_its_variables_from_the_environment(tmp_path: Path) -> None:
    arguments = launcher_arguments(
        LARGE, tmp_path, NNODES="1", TP="2", MODEL="grok1-40b-guide", NO_SHARED_STORAGE="1"
    )
    assert arguments[arguments.index("--tensor-model-parallel-size") + 1] == "2"
    assert arguments[arguments.index("--model") + 1] == "grok1-40b-guide"
    assert "--overlap-grad-reduce" not in arguments and "--no-shared-storage" in arguments


@pytest.mark.parametrize(
    ("script", "model", "layout"),
    [(GROK2_TINY, "grok2-tiny", "2 2 2 1"), (GROK2, "grok2-19b", "4 2 2 2")],
)
def test_grok2_launchers(script: Path, model: str, layout: str, tmp_path: Path) -> None:
    device = "ascend-910b1"
    arguments = launcher_arguments(script, tmp_path, DEVICE=device)
    flags = ("tensor-model", "pipeline-model", "expert-model", "expert-tensor")
    sizes = [arguments[arguments.index(f"--{flag}-parallel-size") + 1] for flag in flags]
    assert " ".join(sizes) == layout
    assert arguments[arguments.index("--model") + 1] == model
    assert arguments[arguments.index("--nnodes") + 1] == "1"
    assert arguments[-2:] == ["--train-iters", "7"]
    # The flags are the program's: the plan of the run takes them, and its devices are enough.
    start = arguments.index("pretrain") + 1
    given = [value for value in arguments[start:-2] if value != "--"]
    given += [] if "--device" in given else ["--device", device]
    done = run(
        [sys.executable, "-m", "ml_train.cli", "plan", "--nproc-per-node", 8, *given], timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{model} on 8 x Ascend 910B1" in done.stdout


@pytest.mark.parametrize("script", [TINY, LARGE, GROK2])
def test_every_node_is_told_the_same_port(script: Path, tmp_path: Path) -> None:
    ports = set()
    for rank in ("0", "1"):
        arguments = launcher_arguments(script, tmp_path, NNODES="2", NODE_RANK=rank)
        ports.add(arguments[arguments.index("--master-port") + 1])
    assert len(ports) == 1
    alone = launcher_arguments(script, tmp_path, NNODES="1")
    assert "--standalone" in alone and "--master-port" not in alone
    given = launcher_arguments(script, tmp_path, NNODES="1", MASTER_PORT="7000")
    assert given[given.index("--master-port") + 1] == "7000"


def test_several_nodes_at_localhost_are_one_sentence() -> None:
    done = run(["bash", TINY], timeout=60, NNODES="2", NODE_RANK="1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--master-addr localhost with --nnodes 2" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("script", [TINY, LARGE])
def test_starting_weights_come_from_the_environment(script: Path, tmp_path: Path) -> None:
    assert "--pretrained-checkpoint" not in launcher_arguments(script, tmp_path)
    arguments = launcher_arguments(script, tmp_path, PRETRAINED_CHECKPOINT="a b")
    assert arguments[arguments.index("--pretrained-checkpoint") + 1] == "a b"
