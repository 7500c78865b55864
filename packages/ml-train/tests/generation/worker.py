"""torchrun worker.py FOLDER TOKENS: a checkpoint saved by two processes at TP 2.

Writes FOLDER/loss.json: the loss of the parallel model over the windows that evaluate takes.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ml_models.bring_up import import_model_code, start_platform
from ml_models.process_groups import destroy_process_groups
from ml_models.registry import get

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoint"))


def main() -> None:
    platform = start_platform("cpu")
    import_model_code(get("grok1-tiny"))
    from small_run import LENGTH, SmallRun

    from ml_data.indexed.reader import IndexedDataset
    from ml_train.checkpoint.manager import CheckpointManager
    from ml_train.config.sections.checkpoint import CheckpointSection
    from ml_train.generation.evaluate import windows

    folder, prefix = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo")
    with platform.context():
        run = SmallRun(tp=2, model={"vocab_size": 131072})
        manager = CheckpointManager(CheckpointSection(save=str(folder)), say=lambda text: None)
        for step in range(3):
            run.step(step)
        manager.save(run, {"iteration": 3, "consumed_samples": 24}, in_background=False)
        model = run.model_chunks[0].eval()
        total, count = 0.0, 0
        for window in windows(IndexedDataset(prefix).tokens, LENGTH, 64):
            ids = torch.tensor(window.astype("int64"))[None]
            positions = torch.arange(ids.shape[1] - 1)[None]
            with torch.no_grad():
                losses = model(
                    ids[:, :-1].contiguous(), positions, None, labels=ids[:, 1:].contiguous()
                )
            total += float(losses.double().sum())
            count += losses.numel()
        if dist.get_rank() == 0:
            (folder / "loss.json").write_text(json.dumps({"loss": total / count, "tokens": count}))
        dist.barrier()
    destroy_process_groups()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
