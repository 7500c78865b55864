"""The batch of a step that went wrong, down to documents and token offsets, as one JSON file.

    iteration, kind, text, policy     what was wrong, and what was done
    samples                           [first, last] in the run's order of sequences
    data_ranks[]                      per data-parallel rank
      micro_batches[]                 loss, and samples[]: sample and parts[]: prefix, sequence,
                                      document, first_token (in the sequence), num_tokens,
                                      byte_offset (in the .bin)
    gradients[]                       ranks that hold a gradient that is not finite: rank,
                                      coordinates, parameter (the first one)
    errors[]                          ranks that could not tell their part

sequence and document are numbers in the .idx; they are equal where a document is one sequence.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

FORMAT_VERSION = 1


def first_bad_parameter(model_chunks: Sequence[Any]) -> str | None:
    """Name of the first parameter on this rank whose gradient holds a NaN or an Inf."""
    for chunk in model_chunks:
        for name, parameter in chunk.named_parameters():
            gradient = getattr(parameter, "main_grad", None)
            if gradient is not None and not bool(torch.isfinite(gradient).all()):
                return str(name).replace("module.", "")
    return None


def own_part(train_module: Any, stream: Any, consumed: int, losses: list[float]) -> dict[str, Any]:
    """What this rank knows about the global batch that begins at sample `consumed`."""
    from megatron.core import parallel_state

    from ml_train.parallel.coordinates import coordinates

    tensor_rank = parallel_state.get_tensor_model_parallel_rank()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    part: dict[str, Any] = {
        "rank": torch.distributed.get_rank(),
        "coordinates": coordinates(),
        "data_rank": parallel_state.get_data_parallel_rank(),
        "parameter": first_bad_parameter(train_module.model_chunks),
    }
    if tensor_rank == 0 and losses:
        # JSON has no NaN: such a loss is a word.
        part["losses"] = [loss if math.isfinite(loss) else str(loss) for loss in losses]
    if tensor_rank == 0 and stage == 0:
        part["samples"] = [
            [{"sample": n, "parts": stream.dataset.origin(n)} for n in numbers]
            for numbers in stream.numbers(consumed, train_module.layout.num_microbatches)
        ]
    return part


def failed_part(error: Exception) -> dict[str, Any]:
    """In place of own_part where that failed."""
    return {
        "rank": torch.distributed.get_rank(),
        "data_rank": None,
        "parameter": None,
        "error": f"{type(error).__name__}: {error}",
    }


def document_of(parts: Sequence[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """One document out of what all ranks know."""
    ranks: dict[int, list[dict[str, Any]]] = {}
    for part in parts:
        if part["data_rank"] is None:
            continue
        micro_batches = ranks.setdefault(part["data_rank"], [])
        for name, key in (("losses", "loss"), ("samples", "samples")):
            for number, value in enumerate(part.get(name, [])):
                if number == len(micro_batches):
                    micro_batches.append({})
                micro_batches[number][key] = value
    return {
        "format": FORMAT_VERSION,
        **facts,
        "data_ranks": [{"data_rank": rank, "micro_batches": ranks[rank]} for rank in sorted(ranks)],
        "gradients": [
            {key: part[key] for key in ("rank", "coordinates", "parameter")}
            for part in parts
            if part["parameter"] is not None
        ],
        "errors": [f"rank {part['rank']}: {part['error']}" for part in parts if "error" in part],
    }


def write(document: dict[str, Any], folder: Path) -> Path:
    """FOLDER/step_N.json, or step_N_2.json and so on where the step was bad before. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, number = f"step_{document['iteration']:07d}", 1
    path = folder / f"{stem}.json"
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path
