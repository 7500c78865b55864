"""verify-resume: what it starts and what it prints. Whole runs are marked slow."""

import shutil
from pathlib import Path

import pytest

from ml_train import cli
from ml_train.checkpoint.compare import Comparison
from ml_train.config import flags
from ml_train.config.load import load_config
from ml_train.config.run import RunConfig
from ml_train.diagnosis import resumed_runs, runs
from ml_train.errors import ConfigError

ROOT = Path(__file__).parents[4]
SAMPLE = ROOT / "packages/ml-data/tests/data/alpaca_sample_text_document"


def load(*words: str) -> RunConfig:
    return load_config(flags.parse(words)).config


def test_words_say_the_same_configuration() -> None:
    config = load(
        *("--recipe", "grok1-tiny", "--data-path", "0.3", "a", "0.7", "b"),
        *("--expert-model-parallel-size", "2", "--no-async-save", "--lr", "2e-4", "--bf16"),
    )
    assert load(*runs.words_of(config)) == config


def test_smallest_world() -> None:
    config = load("--recipe", "grok1-tiny", "--tensor-model-parallel-size", "2")
    pipeline = config.parallel.pipeline_model_parallel_size
    assert runs.smallest_world(config) % (2 * pipeline) == 0


def test_half_runs_are_refused() -> None:
    config = load("--recipe", "grok1-tiny", "--load", "x")
    with pytest.raises(ConfigError, match="drop --load"):
        resumed_runs.check(config, "verify-resume")


def test_differences_are_counted_by_kind() -> None:
    rows = resumed_runs.grouped(
        [
            Comparison(key="a.weight", equal=True, elements=10),
            Comparison(key="b.weight", equal=False, elements=5, differing=2, max_difference=0.5),
            Comparison(key="optimizer.state.exp_avg.a.weight", equal=True, elements=10),
            Comparison(key="random states", equal=False),
        ]
    )
    assert [(row.compared, row.differing) for row in rows] == [(15, 2), (10, 0), (1, 1)]
    assert "b.weight" in rows[0].note
    assert "random states" in resumed_runs.table(rows)


@pytest.mark.slow
def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in SAMPLE.parent.glob(f"{SAMPLE.name}.*"):
        shutil.copy(path, tmp_path)
    words = ["verify-resume", "--recipe", "grok1-tiny", "--data-path", str(tmp_path / SAMPLE.name)]
    words += ["--tensor-model-parallel-size", "1", "--pipeline-model-parallel-size", "1"]
    words += ["--expert-model-parallel-size", "2", "--seq-length", "64"]
    words += ["--global-batch-size", "4", "--verify-steps", "2"]
    assert cli.main(words) == 0
    assert "to the bit" in capfd.readouterr().out
