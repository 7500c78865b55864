"""Where nodes meet: what torchrun's flags say, and what is refused before anything waits."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from ports import free_port
from torch.distributed import run

from ml_train.errors import ConfigError, StartError
from ml_train.launch import command, meeting_point
from ml_train.parallel.groups import _meeting_point
from ml_train.parallel.layout import World


def check(*words: str) -> list[str]:
    messages: list[str] = []
    meeting_point.check(run.parse_args([*words, "job.py"]), messages.append)
    return messages


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting_point, "_RESOLVED_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr(meeting_point, "_PATIENCE_SECONDS", 0.5)


@pytest.mark.parametrize(
    "words",
    ["--standalone", "--standalone --nnodes 1", "--nproc-per-node 2", "--nnodes 1", "--nnodes 1:4"],
)
def test_one_node_needs_nothing(words: str) -> None:
    assert check(*words.split()) == []


def test_a_port_in_use_is_named(taken: int) -> None:
    for words in (["--nnodes", "1"], ["--nnodes", "2", "--node-rank", "0"]):
        address = ["--master-addr", socket.gethostname(), "--master-port", str(taken)]
        with pytest.raises(StartError, match=f"--master-port: port {taken} is in use"):
            check(*words, *address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "LOCALHOST", "0.0.0.0"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_localhost_is_another_machine_on_each_node(host: str, rank: str) -> None:
    words = f"--nnodes 2 --node-rank {rank} --master-addr {host} --master-port 29999"
    with pytest.raises(ConfigError, match=f"--master-addr {host} with --nnodes 2"):
        check(*words.split())
    with pytest.raises(ConfigError, match="--rdzv-endpoint"):
        check("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{host}:29999")


def test_the_default_address_is_localhost() -> None:
    with pytest.raises(ConfigError, match=r"--master-addr 127\.0\.0\.1 with --nnodes 2"):
        check("--nnodes", "2", "--node-rank", "1")


def test_a_host_that_is_none_is_named_at_once_and_given_up() -> None:
    messages: list[str] = []
    flags = run.parse_args(
        ["--nnodes", "2", "--node-rank", "1", "--master-addr", "no-such-host.invalid", "job.py"]
    )
    with pytest.raises(StartError, match=r"no-such-host\.invalid cannot be resolved"):
        meeting_point.check(flags, messages.append)
    assert len(messages) == 1 and "no-such-host.invalid" in messages[0]


def test_a_node_that_node_0_does_not_answer_says_so() -> None:
    port = free_port()
    messages: list[str] = []
    address = f"--master-addr {socket.gethostname()} --master-port {port} --rdzv-conf timeout=2"
    flags = run.parse_args(f"--nnodes 2 --node-rank 1 {address} job.py".split())
    with pytest.raises(StartError, match=f"did not answer at .*:{port} within 2 s"):
        meeting_point.check(flags, messages.append)
    assert "with the same --master-addr and --master-port?" in messages[0]


def test_a_node_goes_on_once_node_0_answers(taken: int) -> None:
    words = f"--nnodes 2 --node-rank 1 --master-addr {socket.gethostname()} --master-port {taken}"
    assert check(*words.split()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--nnodes x", "--nnodes is 'x'"),
        ("--nnodes 3:2", "the least before the most"),
        ("--master-port 0", "--master-port is 0"),
        ("--master-port 70000", "port 70000; rule: from 1 to 65535"),
        ("--rdzv-backend c10d --rdzv-endpoint host:x", "HOST:PORT"),
        ("--nnodes 2 --node-rank 2 --master-addr node0", "--node-rank is 2 with --nnodes 2"),
    ],
)
def test_flags_that_make_no_sense(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*words.split(), "job.py"]) == 2
    messages = capsys.readouterr().err
    assert messages.startswith("ml-train-launch: error: ") and says in messages


def test_without_a_launcher_rank_0_and_all_look_at_the_environment(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    monkeypatch.setenv("MASTER_PORT", str(taken))
    ranks = [World(rank=rank, size=2, local_rank=rank) for rank in (0, 1)]
    for world in ranks:
        with pytest.raises(StartError, match=r"no-such-host\.invalid"):
            _meeting_point(world)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(StartError, match=f"MASTER_PORT: port {taken} is in use"):
        _meeting_point(ranks[0])
    assert _meeting_point(ranks[1]) == "env://"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert _meeting_point(ranks[0]) == "env://"
