"""Groups are taken down at once after a collective, as at the end of a run."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from ml_models.process_groups import destroy_process_groups

# In a process of its own: pytest's time limit cannot end a deadlock inside torch.
ROUNDS = """
import gc, sys
import torch
import torch.distributed as dist
from ml_models.process_groups import backends_outlive_groups, destroy_process_groups

for number in range(200):
    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    subgroup = dist.new_group(backend="gloo")
    for group in (None, subgroup):
        dist.all_reduce(torch.zeros(3), group=group)
        dist.broadcast_object_list([number], src=0, group=group)
    if "subgroup" in sys.argv:
        with backends_outlive_groups():
            dist.destroy_process_group(subgroup)
            del subgroup, group
    else:
        del subgroup, group
    destroy_process_groups()
    assert not dist.is_initialized()
print("done")
"""


@pytest.mark.parametrize("what", ["all", "subgroup"])
def test_threads_of_the_last_collective_are_not_waited_for_in_vain(what: str) -> None:
    """torch 2.6 and 2.7 hang within some rounds without this module; torch 2.8 and later do not."""
    command = [sys.executable, "-c", ROUNDS, what]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "done"


def test_a_device_without_a_backend_is_passed_over(
    no_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gloo group lists cuda, and transfer_to_npu has torch look for npu in its place."""
    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    original = dist.ProcessGroup._get_backend
    asked: list[str] = []

    def transferred(group: dist.ProcessGroup, device: torch.device) -> object:
        asked.append(device.type)
        return original(group, torch.device("xpu") if device.type == "cuda" else device)

    monkeypatch.setattr(dist.ProcessGroup, "_get_backend", transferred)
    destroy_process_groups()
    assert "cuda" in asked
    assert not dist.is_initialized()
