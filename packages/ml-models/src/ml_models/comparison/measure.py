"""A model's numbers for given tokens, under the names that a reference file has."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.weights.boxes import Box
from ml_models.weights.maps import build_map
from ml_models.weights.source import Reader, Source

if TYPE_CHECKING:
    from megatron.core.models.gpt import GPTModel


class LazyWeights(Mapping[str, Tensor]):
    """A source's weights by megatron-core's names, in fp32, each read when it is asked for."""

    def __init__(self, source: Source) -> None:
        self._reader, self._shapes = Reader(source), source.weights.parameter_shapes

    def __getitem__(self, name: str) -> Tensor:
        return self._reader.read(name, Box.whole(self._shapes[name])).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def measure(model: "GPTModel", ids: Tensor, *, wants_loss: bool) -> dict[str, Tensor]:
    """Forward pass over `ids` [B, S]: hidden states, router logits and logits by their keys.

    With `wants_loss` a second pass computes the loss, and its gradients into the parameters. The
    model is in evaluation mode in both, so that no auxiliary loss takes part.
    """
    # It imports megatron-core, which a platform adapts first.
    from ml_models import probe

    positions = torch.arange(ids.shape[1]).expand_as(ids)
    model.eval()
    with torch.no_grad(), probe.record(model) as recorded:
        logits = model(ids, positions)
    batch, length = ids.shape
    measured = {
        name: tensor.reshape(length, batch, -1).transpose(0, 1) for name, tensor in recorded.items()
    }
    measured["logits"] = logits
    if wants_loss:
        losses = model(ids, positions, labels=ids.roll(-1, dims=1))
        # The last position has no next token: its label is the sequence's first.
        loss = losses[:, :-1].float().mean()
        loss.backward()
        measured["loss"] = loss.detach()
    return measured


def named_gradients(
    model: ModelConfig,
    gradients: Mapping[str, Tensor | None],
    reference: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The gradients that `reference` has, put together under Hugging Face's names.

    gradients: of whole parameters, by megatron-core's names.
    """
    maps = registry.architecture(model).weights()
    weights = build_map(maps.huggingface_rows(model), maps.shapes(model), model)
    named = {}
    for key in reference:
        kind, _, name = key.partition(".")
        if kind not in ("grad", "grad_norm") or name not in weights.by_tensor:
            continue
        whole = torch.zeros(weights.tensor_shapes[name])
        for piece in weights.by_tensor[name]:
            gradient = gradients.get(piece.parameter)
            if gradient is None:
                raise WeightError(f"{piece.parameter}: the loss gives it no gradient.")
            block = gradient[piece.parameter_box.slices].float()
            whole[piece.tensor_box.slices] = block.reshape(piece.tensor_box.shape)
        named[key] = whole.norm() if kind == "grad_norm" else whole
    return named
