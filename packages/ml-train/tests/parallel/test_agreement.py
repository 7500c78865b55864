"""Nodes that would not train the same run end before the first step, and say what differs."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from ports import free_port

from ml_train.config import facts as facts_module
from ml_train.config import flags
from ml_train.config.facts import facts_of_run
from ml_train.config.fields import settings
from ml_train.config.load import load_config
from ml_train.data.facts import facts_of_files, sampled_content
from ml_train.errors import ConfigError, StartError
from ml_train.parallel.agreement import agree
from ml_train.parallel.layout import World

PER_NODE = {
    "model", "model_config", "model_override", "data_path", "train_data_path", "valid_data_path",
    "test_data_path", "data_cache_path", "num_workers", "no_mmap_bin_files",
    "tokenizer_name_or_path", "tokenizer_model", "tensorboard_dir", "metrics_file",
    "router_logits_dir",
}  # fmt: skip


def verdicts(*facts: Mapping[str, str], size: int | None = None, seconds: float = 10) -> list[Any]:
    """What agree() raised on each rank, every rank a thread with facts of its own."""
    store = torch._C._distributed_c10d.HashStore()
    store.set_timeout(timedelta(seconds=seconds))
    raised: list[Any] = [None] * len(facts)

    def take_part(rank: int) -> None:
        world = World(rank=rank, size=size or len(facts), local_rank=0)
        try:
            timeout = timedelta(seconds=seconds)
            agree(facts[rank], store=store, world=world, timeout=timeout, start="start")
        except (ConfigError, StartError) as error:
            raised[rank] = error

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(len(facts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


def test_equal_facts_pass_and_one_rank_may_know_more() -> None:
    first = {"--lr": "1", "--data-path (prefix 1, .bin)": "8 bytes"}
    assert verdicts(first, {"--lr": "1"}, first) == [None, None, None]
    assert verdicts({"--lr": "1"}) == [None]


def test_every_rank_says_which_node_differs_in_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "host")
    monkeypatch.delenv("GROUP_RANK", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    first = {"--lr": "0.001", "--seed": "1"}
    other = {"--lr": "0.1", "--seed": "2", "the tokenizer": "4 entries"}
    raised = verdicts(first, first, other, first)
    assert len({str(error) for error in raised}) == 1 and None not in raised
    assert str(raised[0]) == (
        "Node 2 (host) and node 0 (host) do not agree on the run: --lr is 0.1, not 0.001; --seed "
        "is 2, not 1; the tokenizer is 4 entries, not absent. Start every node with the same "
        "command, files and versions."
    )


def test_many_differences_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROUP_RANK", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    first, other = ({str(n): str(value) for n in range(9)} for value in (1, 2))
    raised = verdicts(first, *[other] * 6)
    assert "; 3 more differ." in str(raised[0]) and "2 more nodes differ." in str(raised[0])


def test_ranks_of_one_node_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv("GROUP_RANK", raising=False)
    first, other = {"--lr": "1"}, {"--lr": "2"}
    text = str(verdicts(first, first, other, other)[0])
    assert len(re.findall(r"Node \d", text)) == 1 and text.startswith("Node 1 ")


def test_a_rank_that_does_not_take_part_is_not_waited_for_ever() -> None:
    (raised,) = verdicts({"--lr": "1"}, size=2, seconds=0.3)
    assert isinstance(raised, StartError) and "--distributed-timeout-minutes" in str(raised)


def loaded(*words: str) -> Any:
    return load_config(flags.parse(words))


def test_which_settings_may_differ_between_nodes() -> None:
    marked = {name for name, setting in settings().items() if setting.declared.per_node}
    assert marked == PER_NODE
    known = facts_of_run(loaded(), "cpu")
    assert all((s.flag in known) != (s.name in PER_NODE) for s in settings().values())


@pytest.mark.parametrize(
    ("words", "differing"),
    [
        ("--lr 0.5", ["--lr"]),
        ("--global-batch-size 8", ["--global-batch-size"]),
        ("--save elsewhere", ["--save"]),
        ("--model-override activation=silu", ["the model's activation"]),
        ("--model-override num_layers=4", []),  # as the model has it anyway
        ("--seq-length 64", ["--seq-length", "the model's seq_length"]),
        ("--data-cache-path /local/cache --num-workers 2", []),
        ("--metrics-file m.jsonl --tensorboard-dir t", []),
        ("--bf16", ["--bf16"]),
    ],
)
def test_facts_of_settings(words: str, differing: list[str]) -> None:
    first, other = facts_of_run(loaded(), "cpu"), facts_of_run(loaded(*words.split()), "cpu")
    assert [name for name in first if first[name] != other[name]] == differing


def test_facts_of_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    first = facts_of_run(loaded(), "cpu")
    versions = {"torch": "9.9", "ml-models": "8.8", "megatron-core": "7.7"}
    version = facts_module.metadata.version
    monkeypatch.setattr(
        facts_module.metadata, "version", lambda name: versions.get(name) or version(name)
    )
    other = facts_of_run(loaded(), "cuda")
    assert [name for name in first if first[name] != other[name]] == [
        "the version of ml-models",
        "the version of torch",
        "the version of megatron-core",
        "the platform",
    ]


def write_files(folder: Path, tokens: bytes) -> str:
    folder.mkdir()
    (folder / "p.bin").write_bytes(tokens)
    (folder / "p.idx").write_bytes(b"index")
    return str(folder / "p")


def data_facts(*words: str) -> dict[str, str]:
    return facts_of_files(loaded("--data-path", *words).config)


def test_files_are_compared_by_content_not_by_path(tmp_path: Path) -> None:
    tokens = bytes(range(256)) * 4096
    first = data_facts(write_files(tmp_path / "a", tokens))
    assert first == data_facts(write_files(tmp_path / "b", tokens))
    changed = bytearray(tokens)
    changed[-1] ^= 1
    other = data_facts(write_files(tmp_path / "c", bytes(changed)))
    assert [n for n in first if first[n] != other[n]] == ["--data-path (prefix 1, .bin)"]
    absent = data_facts(str(tmp_path / "absent"))
    assert absent["--data-path (prefix 1, .idx)"] == "unreadable: No such file or directory"


def test_weights_and_numbers_of_prefixes_are_facts(tmp_path: Path) -> None:
    prefix = write_files(tmp_path / "a", b"12")
    first, other = data_facts("1", prefix, "2", prefix), data_facts("1", prefix, "3", prefix)
    assert [n for n in first if first[n] != other[n]] == ["the weights of --data-path"]
    assert data_facts(prefix)["the number of prefixes of --data-path"] == "1"


def test_small_and_empty_files_have_a_digest(tmp_path: Path) -> None:
    texts = set()
    for content in (b"", b"a", b"b"):
        (tmp_path / "file").write_bytes(content)
        texts.add(sampled_content(str(tmp_path / "file")))
    assert len(texts) == 3


def two_nodes(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, str]]:
    """(exit code, output) of two processes that play the ranks of two nodes."""
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "ml_train.cli", "pretrain", *words],
            env={**os.environ, **shared, "RANK": str(node), "GROUP_RANK": str(node)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node, words in enumerate((first, second))
    ]
    try:
        return [
            (process.returncode, out)
            for process in processes
            for out in [process.communicate(timeout=240)[0]]
        ]
    finally:
        for process in processes:
            process.kill()


def test_two_nodes_with_differing_settings_end_before_the_first_step(tmp_path: Path) -> None:
    small = "num_layers=2 hidden_size=32 ffn_hidden_size=64 num_experts=4 vocab_size=512"
    small += " num_attention_heads=4 num_query_groups=2 kv_channels=8"
    same = ["--device", "cpu", "--mock-data", "--train-iters", "2", "--seq-length", "32"]
    same += ["--distributed-timeout-minutes", "3", "--model-override", *small.split()]
    ended = two_nodes(
        [*same, "--lr", "1e-3", "--data-cache-path", str(tmp_path / "a")],
        [*same, "activation=silu", "--lr", "1e-1", "--data-cache-path", str(tmp_path / "b")],
    )
    for rank, (code, output) in enumerate(ended):
        assert code == 2, output
        mark = f" (rank {rank})" if rank else ""
        assert f"ml-train: error{mark}: Node 1 (" in output
        assert "--lr is 0.1, not 0.001; the model's activation is silu, not gelu_tanh." in output
        assert "Traceback" not in output and "step 1" not in output
