"""One rank of a check of the uneven collectives, with an empty piece among them."""

import torch
import torch.distributed as dist

from ml_models.platforms import get_platform
from ml_models.process_groups import destroy_process_groups

SIZES = [2, 0, 3]


def main() -> None:
    dist.init_process_group("gloo")
    get_platform("cpu").apply()
    from megatron.core.tensor_parallel import mappings

    rank, group = dist.get_rank(), dist.group.WORLD
    pieces = [torch.full((size, 2), float(i + 1)) for i, size in enumerate(SIZES)]
    with get_platform("cpu").context():
        gathered = mappings._gather_along_first_dim(pieces[rank], group, SIZES)
        assert torch.equal(gathered, torch.cat(pieces)), gathered
        full = torch.arange(10.0).reshape(5, 2) * (rank + 1)
        mine = mappings._reduce_scatter_along_first_dim(full, group, SIZES)
        wanted = (torch.arange(10.0).reshape(5, 2) * 6).split(SIZES)[rank]
        assert torch.equal(mine, wanted), mine
        empty = mappings._gather_along_first_dim(torch.ones(0, 2), group, [0, 0, 0])
        assert empty.shape == (0, 2)
        even = mappings._gather_along_first_dim(torch.full((1, 2), float(rank)), group)
        assert even[:, 0].tolist() == [0.0, 1.0, 2.0]
    print("ok", flush=True)
    dist.barrier()
    destroy_process_groups()


if __name__ == "__main__":
    main()
