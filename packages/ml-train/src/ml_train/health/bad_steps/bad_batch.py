"""The batch of a step that went wrong, down to documents and token offsets, as one JSON file.

    iteration, kind, text, policy     what was wrong, and what was done
    samples                           [first, last] in the run's order of sequences
    data_ranks[]                      per data-parallel rank
      micro_batches[]                 loss, and samples[]: sample and parts[]: prefix, sequence,
                                      document, first_token (in the sequence), num_tokens,
                                      byte_offset (in the .bin)
    gradients[]                       ranks that hold a gradient that is not finite: rank,
                                      coordinates, parameter (the first such)
    errors[]                          ranks that failed to describe their part

sequence and document are numbers in the .idx; they are equal where every document is a single
sequence.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from megatron.core import parallel_state

from ml_train.data.stream import SampleStream
from ml_train.parallel.coordinates import coordinates
from ml_train.training.train_module import TrainModule

FORMAT_VERSION = 1


class RankPart(TypedDict, total=False):
    """What a rank knows about a global batch. Ranks exchange these."""

    rank: int
    coordinates: str
    """Of the rank in the layout, such as tp0-pp1-ep0-etp0-cp0-dp0."""
    data_rank: int | None
    """None where the rank failed to describe its part."""
    parameter: str | None
    """The first parameter whose gradient is not finite; None where there is none."""
    losses: list[float | str]
    """Per micro batch, on the ranks that compute the loss."""
    samples: list[list[dict[str, object]]]
    """Per micro batch, on the ranks that read the data."""
    error: str


def first_bad_parameter(model_chunks: Sequence[torch.nn.Module]) -> str | None:
    """Name of the first parameter on this rank whose gradient holds a NaN or an Inf."""
    for chunk in model_chunks:
        for name, parameter in chunk.named_parameters():
            gradient = getattr(parameter, "main_grad", None)
            if gradient is not None and not bool(torch.isfinite(gradient).all()):
                # Wrappers for data parallelism and mixed precision put "module." in front.
                return name.replace("module.", "")
    return None


def own_part(
    train_module: TrainModule, stream: SampleStream, consumed: int, losses: list[float]
) -> RankPart:
    """What this rank knows about the global batch that begins at sample `consumed`."""
    part: RankPart = {
        "rank": torch.distributed.get_rank(),
        "coordinates": coordinates(),
        "data_rank": parallel_state.get_data_parallel_rank(),
        "parameter": first_bad_parameter(train_module.model_chunks),
    }
    # Ranks of a tensor-parallel group hold the same losses and samples: the first tells them.
    if parallel_state.get_tensor_model_parallel_rank() != 0:
        return part
    if losses:
        # JSON has no NaN: such a loss is a word.
        part["losses"] = [loss if math.isfinite(loss) else str(loss) for loss in losses]
    if parallel_state.get_pipeline_model_parallel_rank() == 0:
        num_microbatches = train_module.layout.num_microbatches
        part["samples"] = [
            [{"sample": number, "parts": stream.dataset.origin(number)} for number in numbers]
            for numbers in stream.numbers(consumed, num_microbatches)
        ]
    return part


def failed_part(error: Exception) -> RankPart:
    """In place of own_part where that failed."""
    return {
        "rank": torch.distributed.get_rank(),
        "data_rank": None,
        "parameter": None,
        "error": f"{type(error).__name__}: {error}",
    }


def document_of(parts: Sequence[RankPart], facts: Mapping[str, object]) -> dict[str, object]:
    """The JSON document out of the parts of all ranks."""
    ranks: dict[int, list[dict[str, object]]] = {}
    for part in parts:
        if part["data_rank"] is None:
            continue
        # The loss comes from the last pipeline stage and the samples from the first.
        micro_batches = ranks.setdefault(part["data_rank"], [])
        for key, values in (("loss", part.get("losses", [])), ("samples", part.get("samples", []))):
            for number, value in enumerate(values):
                if number == len(micro_batches):
                    micro_batches.append({})
                micro_batches[number][key] = value
    return {
        "format": FORMAT_VERSION,
        **facts,
        "data_ranks": [{"data_rank": rank, "micro_batches": ranks[rank]} for rank in sorted(ranks)],
        "gradients": [
            {
                "rank": part["rank"],
                "coordinates": part["coordinates"],
                "parameter": part["parameter"],
            }
            for part in parts
            if part["parameter"] is not None
        ],
        "errors": [f"rank {part['rank']}: {part['error']}" for part in parts if "error" in part],
    }


def write(document: Mapping[str, object], folder: Path) -> Path:
    """FOLDER/step_N.json, or step_N_2.json and so on where the step was bad before. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, number = f"step_{document['iteration']:07d}", 1
    path = folder / f"{stem}.json"
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path
