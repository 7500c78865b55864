"""Record what happens inside a model: hidden states and router logits.

The names are those of the reference files: hidden_states.I is the input of layer I, and with I the
number of layers the last layer's output; final_norm; router_logits.I before the softmax.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ml_models.layers.router import FusedRouter

if TYPE_CHECKING:
    from megatron.core.models.gpt import GPTModel


def routers(model: torch.nn.Module) -> dict[int, FusedRouter]:
    """The routers of this pipeline stage by layer, counted from 0."""
    return {
        module.layer_number - 1: module
        for module in model.modules()
        if isinstance(module, FusedRouter)
    }


@contextmanager
def record(model: "GPTModel") -> Iterator[dict[str, Tensor]]:
    """Record one forward pass of a GPTModel (unwrapped): this rank's part, [S, B, ...] detached."""
    recorded: dict[str, Tensor] = {}
    with _layers_recorded(model, recorded), _routers_recorded(model, recorded):
        yield recorded


@contextmanager
def _layers_recorded(model: "GPTModel", recorded: dict[str, Tensor]) -> Iterator[None]:
    """Hooks on the layers of this stage and on the final norm, where this stage has it."""

    def keep_output(
        name: str, _module: torch.nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]
    ) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        recorded[name] = tensor.detach()

    def keep_input(
        name: str,
        _module: torch.nn.Module,
        arguments: tuple[Tensor, ...],
        options: dict[str, Tensor],
    ) -> None:
        recorded[name] = (arguments[0] if arguments else options["hidden_states"]).detach()

    handles = []
    for layer in model.decoder.layers:
        number = layer.layer_number
        before = partial(keep_input, f"hidden_states.{number - 1}")
        handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        after = partial(keep_output, f"hidden_states.{number}")
        handles.append(layer.register_forward_hook(after))
    norm = model.decoder.final_layernorm
    if norm is not None:
        handles.append(norm.register_forward_hook(partial(keep_output, "final_norm")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _routers_recorded(model: "GPTModel", recorded: dict[str, Tensor]) -> Iterator[None]:
    """An observer beside those that the routers have already."""
    observers = []
    for number, router in routers(model).items():
        observer = partial(recorded.__setitem__, f"router_logits.{number}")
        router.observers.append(observer)
        observers.append((router, observer))
    try:
        yield
    finally:
        for router, observer in observers:
            router.observers.remove(observer)
