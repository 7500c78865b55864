"""ml-train's commands on a platform, in forks of one process that has applied it.

`python server.py npu` reads one JSON object per line and answers each with the exit code of the
command. {"words", "ranks", "log"} are the command line, the number of processes and the file of
their output. {"waits": FILE} counts what the host of rank 0 waits for, see waits.py. {"adam": FILE}
says how rank 0's Adam updates, see adam.py. {"fused": true} gives a CPU the fused Adam that devices
have, so that the updates round alike. {"stuck": [RANK, STEP, PHASE, FOLDER]} stops a rank and
leaves the others waiting, see stuck.py.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "invariance"))
import forks


def serve(device: str) -> None:
    """Answer orders until the input ends."""
    if device == "cuda":
        # Processes that this one starts need no device, and other programs no library of torch.
        os.environ.pop("LD_PRELOAD", None)
        import simulated_cuda_names  # noqa: F401 - gives torch.cuda its devices

        from ml_models.megatron_core import requirements

        # The name of torch's wheel says that it has no CUDA.
        requirements.is_cpu_build = lambda: False
    from ml_train.bring_up import start_platform

    # Before forks imports megatron-core, as at every entry point.
    start_platform(device)
    forks._import_everything()
    child = forks._child
    for line in sys.stdin:
        order = json.loads(line)

        def observed(
            words: list[str], rank: int, ranks: int, port: int, log: str, order: Any = order
        ) -> None:
            if order.get("waits") and rank == 0:
                import waits

                waits.count_into(Path(order["waits"]))
            if order.get("adam") and rank == 0:
                import adam

                adam.write_into(Path(order["adam"]))
            if order.get("fused"):
                import ml_train.training.optimizer

                ml_train.training.optimizer.why_not_fused = lambda _: ""
            if order.get("stuck"):
                import stuck

                stuck.stop_rank(*order["stuck"], is_this_rank=order["stuck"][0] == rank)
            child(words, rank, ranks, port, log)

        forks._child = observed
        print(forks.run(order["words"], order["ranks"], order["log"]), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
