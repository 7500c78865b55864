"""What happens inside a model: hidden states and router logits.

The names are those of the reference files: hidden_states.I is the input of layer I (I = number of
layers: the last layer's output), final_norm, router_logits.I before the softmax.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from ml_models.layers.router import FusedRouter


def routers(model: Any) -> dict[int, FusedRouter]:
    """The routers of this pipeline stage by layer, counted from 0."""
    return {
        module.layer_number - 1: module
        for module in model.modules()
        if isinstance(module, FusedRouter)
    }


@contextmanager
def record(model: Any) -> Iterator[dict[str, Tensor]]:
    """Record one forward pass of a GPTModel (unwrapped): this rank's part, [S, B, ...] detached."""
    found: dict[str, Tensor] = {}
    handles = []

    def keep(name: str, _: Any, inputs: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        found[name] = tensor.detach()

    def keep_input(name: str, _: Any, args: Any, kwargs: Any) -> None:
        found[name] = (args[0] if args else kwargs["hidden_states"]).detach()

    for layer in model.decoder.layers:
        number = layer.layer_number
        handles.append(
            layer.register_forward_pre_hook(
                partial(keep_input, f"hidden_states.{number - 1}"), with_kwargs=True
            )
        )
        handles.append(layer.register_forward_hook(partial(keep, f"hidden_states.{number}")))
    norm = model.decoder.final_layernorm
    if norm is not None:
        handles.append(norm.register_forward_hook(partial(keep, "final_norm")))
    observers = []
    for number, router in routers(model).items():
        observer = partial(found.__setitem__, f"router_logits.{number}")
        router.observers.append(observer)
        observers.append((router, observer))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for router, observer in observers:
            router.observers.remove(observer)
