"""--write: the file starts the run that was planned, and replaces no file of another hand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.errors import ConfigError, MlTrainError
from ml_train.planning.launcher import MARK, PlannedRun, check_target, write_run

RUN = (
    *("--recipe", "grok1-40b", "--tensor-model-parallel-size", "2"),
    *("--num-layers-per-virtual-pipeline-stage", "2", "--no-sequence-parallel"),
    *("--recompute-granularity", "full", "--recompute-method", "uniform"),
    *("--recompute-num-layers", "1", "--model-override", "num_layers=16", "hidden_size=3072"),
    *("--data-path", "0.3", "a file's tokens", "0.7", "$HOME/b"),
    *("--no-exit-signal-handler", "--no-save-optim"),
)


def planned(*flags: str) -> PlannedRun:
    config = load_config(parse([*RUN, *flags])).config
    return PlannedRun(config=config, nodes=4, devices_per_node=2, figures="TP2, fits\na line")


def started(path: Path, tmp_path: Path, *arguments: str, **environment: str) -> list[str]:
    """The words that the launcher gives to ml-train-launch."""
    program = tmp_path / "bin" / "ml-train-launch"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@"\n')
    program.chmod(0o755)
    path_variable = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [path, *arguments],
        env={"PATH": path_variable, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split("\0")[:-1]


def test_a_launcher_starts_the_planned_configuration(tmp_path: Path) -> None:
    path = tmp_path / "launch.sh"
    write_run(path, planned())
    words = started(path, tmp_path)
    command = words.index("pretrain")
    assert words[:command] == [
        *("--nproc-per-node", "2", "--nnodes", "4", "--node-rank", "0"),
        *("--master-addr", "localhost", "--master-port", "6000", "-m", "ml_train.cli"),
    ]
    again = load_config(parse(words[command + 1 :]))
    assert again.config == planned().config
    assert again.model == load_config(parse([*RUN])).model


def test_arguments_win_over_a_launcher_and_variables_say_where_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "launch.sh"
    write_run(path, planned())
    words = started(path, tmp_path, "--lr", "0.5", NNODES="1", NODE_RANK="0")
    assert "--standalone" in words
    assert load_config(parse(words[words.index("pretrain") + 1 :])).config.optimizer.lr == 0.5


def test_a_recipe_gives_the_planned_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    write_run(path, planned())
    again = load_config(parse(["--recipe", str(path)]))
    assert again.config == planned().config
    assert again.origins["parallel.tensor_model_parallel_size"] == f"recipe {path}"
    flagged = load_config(parse(["--recipe", str(path), "--lr", "0.5"]))
    assert flagged.config.optimizer.lr == 0.5


@pytest.mark.parametrize("ending", [".sh", ".toml"])
def test_a_file_of_another_hand_is_kept(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"run{ending}"
    path.write_text("precious\n")
    for write in (lambda: check_target(path), lambda: write_run(path, planned())):
        with pytest.raises(ConfigError, match="did not write; rule: no other file is replaced"):
            write()
    assert path.read_text() == "precious\n"
    link = tmp_path / f"link{ending}"
    link.symlink_to(tmp_path / "absent")
    with pytest.raises(ConfigError, match="did not write"):
        check_target(link)


@pytest.mark.parametrize("ending", [".sh", ".toml"])
def test_a_file_of_an_earlier_plan_is_replaced_whole(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"run{ending}"
    write_run(path, planned())
    write_run(path, planned("--lr", "0.25"))
    assert MARK in path.read_text()
    assert "0.25" in path.read_text()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rule: a launcher FILE.sh or a recipe FILE.toml"):
        check_target(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="is no folder.*Make it first"):
        check_target(tmp_path / "absent" / "run.sh")


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml_models.files.durable.create", full)
    with pytest.raises(MlTrainError, match="cannot be written: No space left"):
        write_run(tmp_path / "run.sh", planned())
    assert list(tmp_path.iterdir()) == []
