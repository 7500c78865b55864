"""What a process on the simulated npu is told; prints it as JSON."""

import json

import torch
import torch.distributed as dist

from ml_models.bring_up import start_platform
from ml_models.platforms import get_platform


def error_of_mixed_devices() -> str:
    """A sum of a tensor of the CPU and one of the device."""
    try:
        torch.ones(2, device="npu").add_(torch.ones(2))
    except RuntimeError as error:
        return str(error)
    return "none"


def broadcast() -> list[float]:
    """Of 1 process; torch reads the device's capability on the way."""
    store = torch._C._distributed_c10d.HashStore()
    # transfer_to_npu reads nccl as hccl.
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    values = torch.tensor([3.0], device="cuda")
    dist.broadcast(values, 0)
    dist.destroy_process_group()
    return values.tolist()


def main() -> None:
    """Bring the platform up as every command does."""
    first = start_platform("auto", local_rank=3)
    facts = {
        "auto": [first.name, get_platform("auto").name],
        "applied twice": first.apply() == get_platform("npu").apply(),
        "mixed": error_of_mixed_devices(),
        "device": str(torch.ones(1, device="cuda").device),
        "type": torch.ones(1, device="npu").type(),
        "broadcast": broadcast(),
        "capability": torch.cuda.get_device_capability(),
        "peak": first.peak_tflops(torch.bfloat16),
        "memory": first.memory_bytes() > 0,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
