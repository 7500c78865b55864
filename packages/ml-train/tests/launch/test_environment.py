"""The variables and the logs that ml-train-launch gives a run, by platform."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed import run as torch_run

from ml_models.platforms import cpu, cuda, npu
from ml_train.launch import environment
from ml_train.launch.command import main

VARIABLES = {row.name for table in (cuda.CudaPlatform, npu.NpuPlatform) for row in table.variables}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    for name in (*VARIABLES, "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


def prepared(
    *words: str, launcher: tuple[str, ...] = ("--standalone",)
) -> tuple[object, list[str]]:
    """torchrun's flags after `prepare`, and what it said."""
    said: list[str] = []
    flags = torch_run.parse_args([*launcher, "-m", "ml_train.cli", "pretrain", *words])
    environment.prepare(flags, said.append)
    return flags, said


def test_cuda_gets_its_table_and_the_user_sees_it() -> None:
    _, said = prepared("--device", "cuda", "--tensor-model-parallel-size", "2")
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    allocator = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ)
    assert [os.environ[name] for name in allocator] == ["expandable_segments:True"]
    assert said[0].startswith("launch: set for cuda: CUDA_DEVICE_MAX_CONNECTIONS=1, PYTORCH_")
    assert not [name for name in os.environ if name.startswith("HCCL_")]


def test_hccl_waits_as_long_as_the_run_allows(tmp_path: Path) -> None:
    # From a file too: the launcher reads the run's command as the run does.
    (tmp_path / "run.toml").write_text("[parallel]\ndistributed_timeout_minutes = 45\n")
    _, said = prepared("--device", "npu", "--config", str(tmp_path / "run.toml"))
    assert os.environ["HCCL_CONNECT_TIMEOUT"] == os.environ["HCCL_EXEC_TIMEOUT"] == "2700"
    # torch_npu wants this one longer than HCCL_EXEC_TIMEOUT.
    assert int(os.environ["HCCL_EVENT_TIMEOUT"]) > 2700
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in os.environ  # no tensor parallelism
    assert os.environ["TASK_QUEUE_ENABLE"] == "2" and "HCCL_EXEC_TIMEOUT=2700" in said[0]


def test_what_the_user_set_is_kept_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "77")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    _, said = prepared("--device", "npu")
    assert os.environ["HCCL_EXEC_TIMEOUT"] == "77"
    # Rows that depend on a kept value follow it, and torch_npu ends where both allocator
    # variables are set.
    assert os.environ["HCCL_EVENT_TIMEOUT"] == "109"
    assert "PYTORCH_NPU_ALLOC_CONF" not in os.environ
    assert said[1] == (
        "launch: kept as you set it for npu: PYTORCH_ALLOC_CONF=max_split_size_mb:64, "
        "HCCL_EXEC_TIMEOUT=77"
    )


@pytest.mark.parametrize(
    ("words", "launcher"),
    [
        (("--device", "cpu"), ("--standalone",)),
        (("--device", "npx"), ("--standalone",)),  # the ranks tell the mistake
        (("--no-such-flag",), ("--standalone",)),
    ],
)
def test_a_cpu_and_a_mistake_change_nothing(
    words: tuple[str, ...], launcher: tuple[str, ...]
) -> None:
    flags, said = prepared(*words, launcher=launcher)
    assert said == [] and flags.log_dir is None
    assert not VARIABLES & set(os.environ)


def test_auto_takes_the_table_of_the_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.CudaPlatform, "available", classmethod(lambda cls: False))
    monkeypatch.setattr(npu.NpuPlatform, "available", classmethod(lambda cls: True))
    prepared("--device", "auto")
    assert "HCCL_EXEC_TIMEOUT" in os.environ


def test_logs_of_a_device_lie_beside_the_checkpoints_by_node(tmp_path: Path) -> None:
    nodes = ("--nnodes", "2", "--node-rank", "1", "--master-addr", "a", "--master-port", "6000")
    flags, said = prepared("--device", "npu", "--save", str(tmp_path), launcher=nodes)
    assert flags.log_dir == str(tmp_path / "logs/node_1")
    assert flags.tee == flags.redirects == "3"
    assert said[-1].endswith(f"is kept in {tmp_path}/logs/node_1")
    flags, _ = prepared("--device", "npu", "--save", str(tmp_path), launcher=("--log-dir", "none"))
    assert flags.log_dir is None and flags.tee == "0"
    flags, _ = prepared("--device", "cpu", "--save", str(tmp_path))
    assert flags.log_dir is None


def test_the_files_have_what_every_rank_said_and_the_screen_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "job.py"
    script.write_text("import os, sys\nsys.stderr.write(f'said by {os.environ[\"RANK\"]}\\n')\n")
    launcher = ["--standalone", "--nproc-per-node", "2", "--log-dir", str(tmp_path / "logs")]
    assert main([*launcher, str(script)]) == 0
    shown = capfd.readouterr().err
    for rank in range(2):
        (file,) = (tmp_path / "logs/node_0").glob(f"*/attempt_0/{rank}/stderr.log")
        assert file.read_text() == f"said by {rank}\n"
        assert f"[rank {rank}] said by {rank}" in shown


def test_the_cpu_has_no_table() -> None:
    assert cpu.CpuPlatform.variables == ()
