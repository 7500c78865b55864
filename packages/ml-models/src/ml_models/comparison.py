"""Run a model on a reference file's tokens and say how far each of its numbers is off.

Keys of a reference (safetensors), all but input_ids under a prefix such as "xai_fp32.":
```
input_ids [B, S]           logits [B, S, V]         loss  (shifted mean cross entropy)
hidden_states.I [B, S, H]  final_norm [B, S, H]     router_logits.I [B, S, E]
grad.NAME, grad_norm.NAME  of the loss, by the Hugging Face name of a parameter
```
The model runs in fp32 on one CPU process. Each group has a limit of its own; only the logits'
decides whether a comparison passes.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml_models import registry
from ml_models.errors import MlModelsError, WeightError
from ml_models.weights.maps import box_of, build_map, shape_of
from ml_models.weights.source import Reader, Source

TOLERANCE = 1e-4
# group -> (which difference, its limit)
LIMITS = {
    "hidden_states": ("absolute", 1e-4),
    "final_norm": ("absolute", 1e-4),
    "router_logits": ("absolute", 1e-4),
    "loss": ("relative", 1e-5),
    "grad_norm": ("relative", 1e-4),
    "grad": ("relative", 1e-4),
}


class LazyWeights(Mapping[str, Tensor]):
    """A source's weights by our names, each read when it is asked for."""

    def __init__(self, source: Source) -> None:
        self._reader, self._shapes = Reader(source), source.weights.ours_shapes

    def __getitem__(self, name: str) -> Tensor:
        return self._reader.read(name, box_of(self._shapes[name])).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def read_reference(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it, and input_ids; WeightError if one needed lacks."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightError(f"{path}: no readable safetensors file ({error}).") from error
    found = {
        key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)
    }
    if "input_ids" not in found and "input_ids" in stored:
        found["input_ids"] = stored["input_ids"]
    prefixes = sorted({key.removesuffix("logits") for key in stored if key.endswith("logits")})
    prefixes = [name for name in prefixes if name == "" or name.endswith(".")]
    if "logits" not in found:
        shown = ", ".join(repr(name) for name in prefixes) or "none"
        raise WeightError(f"{path}: no {prefix}logits; prefixes with logits: {shown}.")
    if "input_ids" not in found:
        raise WeightError(f"{path}: no input_ids.")
    return found


@contextmanager
def one_process() -> Iterator[None]:
    """Megatron-core's process groups with this process alone, on the CPU platform."""
    from ml_models.megatron_core.check import check_unknown_line
    from ml_models.platforms import get_platform

    platform = get_platform("cpu")
    from megatron.core import parallel_state  # the platform makes it importable

    ours = not torch.distributed.is_initialized()
    if not ours and torch.distributed.get_world_size() != 1:
        raise MlModelsError("compare runs in one process; it was started in a group of several.")
    with tempfile.TemporaryDirectory() as folder:
        if ours:
            place = f"file://{Path(folder) / 'store'}"
            torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
        platform.apply()
        check_unknown_line("ml_models")
        try:
            with platform.context():
                if not parallel_state.model_parallel_is_initialized():
                    parallel_state.initialize_model_parallel()
                yield
        finally:
            if ours:
                parallel_state.destroy_model_parallel()
                torch.distributed.destroy_process_group()


def compare(source: Source, reference: Mapping[str, Tensor], tolerance: float) -> dict[str, Any]:
    """Differences per group; "passed" says whether the logits are within `tolerance`."""
    from ml_models import shards
    from ml_models.build import build_model, make_transformer_config
    from ml_models.platforms import make_core_importable

    make_core_importable()
    model_config = source.model
    ids = reference["input_ids"].long()
    _check_sizes(ids, reference["logits"], model_config.vocab_size)
    # Imported before the platform's context is entered: megatron-core compiles functions when it is
    # imported, and torch's compiler then lists functions that the context has replaced.
    import ml_models.layers.model  # noqa: F401

    registry.architecture(model_config).spec()
    with one_process():
        config = make_transformer_config(model_config, perform_initialization=False)
        model = build_model(
            model_config,
            config,
            padded_vocab_size=model_config.vocab_size,
            pre_process=True,
            post_process=True,
        )
        shards.assign(model, LazyWeights(source))
        found = run(model, ids, wants_loss=_wants_loss(reference))
        if any(key.startswith("grad") for key in reference):
            gradients = {shard.key: shard.data.grad for shard in shards.local_shards(model)}
            found.update(named_gradients(model_config, gradients, reference))
    return report(found, reference, tolerance)


def _wants_loss(reference: Mapping[str, Tensor]) -> bool:
    return any(key == "loss" or key.startswith("grad") for key in reference)


def _check_sizes(ids: Tensor, logits: Tensor, vocab_size: int) -> None:
    if tuple(logits.shape) != (*ids.shape, vocab_size):
        raise WeightError(
            f"the reference's logits are {list(logits.shape)}; this model gives "
            f"{[*ids.shape, vocab_size]}: the weights are of another model."
        )
    if ids.ndim != 2 or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
        raise WeightError(
            f"the reference's input_ids are {list(ids.shape)}, up to {int(ids.max())}; the model "
            f"takes [batch, sequence] below its vocabulary of {vocab_size}."
        )


def run(model: Any, ids: Tensor, wants_loss: bool) -> dict[str, Tensor]:
    """Forward (and backward) passes; names as in a reference."""
    from ml_models import probe

    positions = torch.arange(ids.shape[1]).expand_as(ids)
    model.eval()
    with torch.no_grad(), probe.record(model) as recorded:
        logits = model(ids, positions)
    batch, length = ids.shape
    found = {
        name: tensor.reshape(length, batch, -1).transpose(0, 1) for name, tensor in recorded.items()
    }
    found["logits"] = logits
    if wants_loss:
        losses = model(ids, positions, labels=ids.roll(-1, dims=1))
        loss = losses[:, :-1].float().mean()
        loss.backward()
        found["loss"] = loss.detach()
    return found


def named_gradients(
    model: Any, gradients: Mapping[str, Tensor | None], reference: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Gradients by Hugging Face's names, as the reference has them."""
    maps = registry.architecture(model).weights()
    weights = build_map(maps.huggingface_rows(model), maps.shapes(model), model)
    found = {}
    for key in reference:
        kind, _, name = key.partition(".")
        if kind not in ("grad", "grad_norm") or name not in weights.theirs:
            continue
        whole = torch.zeros(weights.theirs_shapes[name])
        for piece in weights.theirs[name]:
            gradient = gradients.get(piece.ours)
            if gradient is None:
                raise WeightError(f"{piece.ours}: the loss gives it no gradient.")
            block = gradient[tuple(slice(*axis) for axis in piece.ours_box)].float()
            target = tuple(slice(*axis) for axis in piece.theirs_box)
            whole[target] = block.reshape(shape_of(piece.theirs_box))
        found[key] = whole.norm() if kind == "grad_norm" else whole
    return found


def report(
    found: Mapping[str, Tensor], reference: Mapping[str, Tensor], tolerance: float
) -> dict[str, Any]:
    """Largest differences per group; relative ones are to the reference's largest magnitude."""
    groups: dict[str, Any] = {}
    unknown = []
    for key, expected in sorted(reference.items()):
        if key == "input_ids":
            continue
        group = key.split(".")[0]
        if group != "logits" and group not in LIMITS:
            continue  # another prefix's numbers, or a group that this version does not know
        if key not in found or found[key].numel() != expected.numel():
            unknown.append(key)
            continue
        absolute, relative = difference(found[key].reshape(expected.shape), expected)
        entry = groups.setdefault(
            group, {"tensors": 0, "absolute": 0.0, "relative": 0.0, "worst": key}
        )
        entry["tensors"] += 1
        kind, limit = LIMITS.get(group, ("absolute", tolerance))
        value = absolute if kind == "absolute" else relative
        if value > entry[kind] or value != value:
            entry["worst"] = key
        entry["absolute"] = max(entry["absolute"], absolute)
        entry["relative"] = max(entry["relative"], relative)
        entry["limit"], entry["limited"] = limit, kind
    for entry in groups.values():
        entry["within"] = entry[entry["limited"]] <= entry["limit"]
    top1 = (found["logits"].argmax(-1) == reference["logits"].argmax(-1)).float().mean()
    return {
        "passed": groups["logits"]["within"],
        "tolerance": tolerance,
        "top1_agreement": float(top1),
        "groups": groups,
        "not_compared": unknown,
    }


def difference(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """(largest absolute difference, that over the largest magnitude expected); inf for NaN."""
    apart = (found.double() - expected.double()).abs().max()
    if not torch.isfinite(apart):
        return float("inf"), float("inf")
    scale = expected.double().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return float(apart), float(apart / scale)
