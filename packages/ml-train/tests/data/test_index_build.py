"""Sample indexes on several processes: shared and private storage, failures, two hosts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ports import free_port
from token_files import write_tokens

LENGTHS = [17, 40, 3, 25, 60, 9, 31, 12] * 5

JOB = """
import json, os, sys
import torch.distributed as dist
from ml_models.process_groups import destroy_process_groups
from ml_train.config.sections.data import DataSection
from ml_train.data.demand import Demand
from ml_train.data.loaders import build_dataloaders
from ml_train.data.request import DataRequest
from ml_train.data.stream import RankShare
from ml_train.errors import DataError

given = json.loads(sys.argv[1])
given |= given.pop("by_node", [{}, {}])[int(os.environ["GROUP_RANK"])]
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
dist.init_process_group("gloo")
try:
    data = DataSection(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    request = DataRequest(
        section=data, sequence_length=16, global_batch_size=8, demand=Demand(total=(32, 0, 0)),
        seed=7,
    )
    share = RankShare(micro_batch_size=2, dp_rank=rank, dp_size=world)
    loaders = build_dataloaders(request, share)
    rows = []
    for _ in range(16 // world):
        rows += next(loaders.train)["tokens"][:, 0].tolist()
    answer = {"rows": rows}
except DataError as error:
    answer = {"error": str(error)}
print(json.dumps(answer))
dist.barrier()
destroy_process_groups()
"""


def environment(rank: int, world: int, per_node: int, address: str, port: int) -> dict[str, str]:
    return {
        **os.environ, "RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1",
        "LOCAL_RANK": str(rank % per_node), "LOCAL_WORLD_SIZE": str(per_node),
        "GROUP_RANK": str(rank // per_node), "MASTER_ADDR": address, "MASTER_PORT": str(port),
    }  # fmt: skip


def answers(processes: list[subprocess.Popen[str]]) -> list[dict]:
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), outputs
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def run(given: dict, *, world: int = 2, per_node: int = 2) -> list[dict]:
    port = free_port()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return answers(
        [
            subprocess.Popen(
                [sys.executable, "-c", JOB, json.dumps(given)],
                env=environment(rank, world, per_node, "127.0.0.1", port),
                **pipes,
            )
            for rank in range(world)
        ]
    )


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return write_tokens(tmp_path / "tokens", lengths=LENGTHS)


def test_one_node(prefix: str) -> None:
    first, second = run({"data_path": [prefix], "split": "1,0,0"})
    assert len(first["rows"]) == len(second["rows"]) == 16
    alone = run({"data_path": [prefix], "split": "1,0,0"}, world=1)[0]["rows"]
    merged = [r for i in range(0, 16, 2) for part in (first, second) for r in part["rows"][i:][:2]]
    assert merged == alone


def test_private_caches_are_found_out_and_filled_by_each_node(prefix: str, tmp_path: Path) -> None:
    caches = [{"data_cache_path": f"{tmp_path}/node{node}/cache"} for node in (0, 1)]
    given = {"data_path": [prefix], "split": "1,0,0", "by_node": caches}
    (tmp_path / "node1").mkdir()
    got = run(given, per_node=1)
    assert all("rows" in answer for answer in got), got
    built = [
        sorted(p.name for p in Path(c["data_cache_path"]).iterdir() if not p.name.startswith("."))
        for c in caches
    ]
    assert built[0] == built[1] and len(built[0]) == 1


@pytest.mark.slow
def test_a_failed_build_is_told_on_every_rank(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    caches = [{"data_cache_path": f"{tmp_path}/cache"}, {"data_cache_path": f"{tmp_path}/file/c"}]
    given = {"data_path": [prefix], "split": "1,0,0", "by_node": caches, "shared_storage": False}
    first, second = run(given, per_node=1)
    assert first == second
    assert first["error"].startswith("Node 1 (") and "--data-cache-path" in first["error"]


def test_a_missing_file_on_one_node_is_told_on_every_rank(prefix: str) -> None:
    missing = [{}, {"data_path": [prefix + "x"]}]
    first, second = run({"data_path": [prefix], "split": "1,0,0", "by_node": missing}, per_node=1)
    assert first == second
    assert "Node 1 (" in first["error"] and "tokensx.idx does not exist" in first["error"]


@pytest.mark.slow
def test_other_tokens_on_one_node_are_told_on_every_rank(prefix: str, tmp_path: Path) -> None:
    other = write_tokens(tmp_path / "other", lengths=LENGTHS, first=1)
    nodes = [{}, {"data_path": [other]}]
    given = {"data_path": [prefix], "split": "1,0,0", "by_node": nodes, "shared_storage": False}
    first, second = run(given, per_node=1)
    assert first == second and "token files of node 1 (" in first["error"]


def may_make_namespaces() -> bool:
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("unshare")):
        return False
    name = f"mlprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made.returncode == 0


class TwoHosts:
    """Two network namespaces joined by a veth pair; mounts differ per process tree."""

    def __init__(self, tag: str):
        self.names = [f"mla{tag}", f"mlb{tag}"]
        self.addresses = ["10.213.77.1", "10.213.77.2"]

    def __enter__(self) -> TwoHosts:
        for name in self.names:
            self._ip("netns", "add", name)
        self._ip("link", "add", self.names[0], "netns", self.names[0], "type", "veth",
                 "peer", "name", self.names[1], "netns", self.names[1])  # fmt: skip
        for name, address in zip(self.names, self.addresses, strict=True):
            self._ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            self._ip("-n", name, "link", "set", name, "up")
            self._ip("-n", name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def start(self, rank: int, private: Path, shown_at: Path, given: dict) -> subprocess.Popen[str]:
        node = rank // 2
        env = environment(rank, 4, 2, self.addresses[0], 29177)
        env["GLOO_SOCKET_IFNAME"] = self.names[node]
        inner = 'mount --bind "$0" "$1" && hostname "$2" && exec "$3" -c "$4" "$5"'
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[node], "unshare", "-m", "-u", "bash", "-c", inner,
             str(private), str(shown_at), f"host{node}", sys.executable, JOB, json.dumps(given)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not may_make_namespaces(), reason="needs root, ip netns and unshare")
@pytest.mark.parametrize("case", ["private", "other tokens", "shared"])
def test_two_hosts_with_their_own_disks(tmp_path: Path, case: str) -> None:
    disks = [tmp_path / "disk0", tmp_path / ("disk0" if case == "shared" else "disk1")]
    for number, disk in enumerate(dict.fromkeys(disks)):
        first = 1 if case == "other tokens" and number == 1 else 0
        write_tokens(disk / "tokens", lengths=LENGTHS, first=first)
    shown_at = tmp_path / "data"
    shown_at.mkdir()
    given = {"data_path": [f"{shown_at}/tokens"], "split": "1,0,0"}
    with TwoHosts(str(os.getpid())) as hosts:
        got = answers([hosts.start(r, disks[r // 2], shown_at, given) for r in range(4)])
    if case == "other tokens":
        wanted = "The token files of node 1 (host1) differ from those of node 0 (host0)."
        assert all(answer["error"].startswith(wanted) for answer in got)
        return
    assert [len(answer["rows"]) for answer in got] == [8, 8, 8, 8]
    for disk in disks:
        assert list((disk / "index_cache").glob("*/ready.json"))
        assert not list((disk / "index_cache").glob(".probe*"))
    assert list(shown_at.iterdir()) == []
