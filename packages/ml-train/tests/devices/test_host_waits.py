"""How often the host waits for the device in a step: per layer, and never per expert."""

import json
from pathlib import Path

from device_runs import MODEL, train
from tiny_runs import done, tokens

LAYOUT = (
    *("--tensor-model-parallel-size", 2, "--expert-model-parallel-size", 2),
    *("--expert-tensor-parallel-size", 1),
)
# Of the global batch of 8 a data-parallel rank of the 2 has 4 sequences.
MICRO_BATCHES = 4
MOST_PER_LAYER = 4
FIRST, LAST = (2, 4), (4, 8)
"""Layers and experts of the two models."""


def waits(folder: Path, prefix: str, num_layers: int, num_experts: int) -> dict[str, int]:
    """Of rank 0 in the last step: {"KIND at FILE:LINE": COUNT}."""
    sizes = {
        "num_layers=4": f"num_layers={num_layers}",
        "num_experts=4": f"num_experts={num_experts}",
    }
    model = tuple(sizes.get(word, word) for word in MODEL)
    counts = folder.with_name(f"{folder.name}.waits")
    words = (*LAYOUT, "--no-save-optim")
    done(train(folder, prefix, *words, model=model, device="npu", processes=4, waits=str(counts)))
    steps = counts.read_text(encoding="utf-8").splitlines()
    assert len(steps) == 4
    return dict(json.loads(steps[-1]))


def test_waits_grow_with_layers_and_not_with_experts(tmp_path: Path) -> None:
    prefix = tokens(tmp_path)
    few, many = (
        waits(tmp_path / f"{layers}", prefix, layers, experts) for layers, experts in (FIRST, LAST)
    )
    # Every wait of the few is counted, so that the test cannot pass by seeing none.
    assert any("token_dispatcher.py" in line for line in few), few
    added = {line: count - few.get(line, 0) for line, count in many.items()}
    visits = (LAST[0] - FIRST[0]) * MICRO_BATCHES
    # The experts of a rank are doubled as well: a wait for each would come on top.
    assert sum(added.values()) <= MOST_PER_LAYER * visits, added
    assert min(added.values()) >= 0
