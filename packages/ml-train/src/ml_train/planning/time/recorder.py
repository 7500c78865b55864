"""Counts what a rank computes while it runs: products by shape, bytes moved and kernels.

It watches the operators that torch dispatches, on the meta device as on a real one. Which operators
are products, and what an operator moves, is decided in ml_models/costs/operations.py.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ml_models.costs.operations import bytes_moved, is_kernel, name_of, product_shape
from ml_train.planning.time.work import Products, Work

PASSES = ("forward", "backward", "communication")
"""Phases of a micro batch, as rank_plan.py names them. What stages send each other is the last."""


class WorkRecorder(TorchDispatchMode):
    """Entered around a step; `phase` says where the step is."""

    def __init__(self, phase: Callable[[], str]) -> None:
        super().__init__()
        self._phase = phase
        self._products: Counter[tuple[str, Products]] = Counter()
        self._attention: Counter[str] = Counter()
        self._memory: Counter[str] = Counter()
        self._kernels: Counter[str] = Counter()

    def clear(self) -> None:
        """Forget what was counted: the building of a model is no part of a step."""
        for counts in (self._products, self._attention, self._memory, self._kernels):
            counts.clear()

    def work(self, phases: Iterable[str]) -> Work:
        """What was counted in these phases."""
        chosen = set(phases)
        products = tuple(
            item.counted(count)
            for (phase, item), count in self._products.items()
            if phase in chosen
        )
        attention = sum(self._attention[phase] for phase in chosen)
        return Work(
            products=products,
            attention_flops=attention,
            # What these operators lose is in the rate that a calibration measures.
            attention_cost=attention,
            memory_bytes=sum(self._memory[phase] for phase in chosen),
            kernels=sum(self._kernels[phase] for phase in chosen),
        )

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = {} if kwargs is None else kwargs
        result = func(*args, **kwargs)
        if func.namespace != "c10d" and is_kernel(func):
            self._count(func, args, kwargs, result)
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in planning/meter.py

    def _count(
        self,
        func: torch._ops.OpOverload,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        result: object,
    ) -> None:
        phase = self._phase()
        self._kernels[phase] += 1
        shape = product_shape(func, args)
        if shape is not None and name_of(func).rstrip("_") not in ("bmm", "baddbmm"):
            element = result.element_size() if isinstance(result, torch.Tensor) else 0
            item = Products(
                rows=shape.rows,
                columns=shape.columns,
                inner=shape.inner,
                count=1,
                dtype=str(shape.dtype).removeprefix("torch."),
                result_bytes=element,
            )
            self._products[phase, item] += shape.batch
        elif shape is not None:
            # Batched products are scores and values of attention: nothing else in a layer is.
            self._attention[phase] += shape.flops
        elif "attention" in name_of(func) and func.overloadpacket in flop_registry:
            flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
            self._attention[phase] += flops
        else:
            self._memory[phase] += bytes_moved(func, args, kwargs, result)
