"""The forms that a device would use, on tensors without values and on a machine without it.

Inside `forms_of`, a model is built with the forms of a device of that type and of the packages that
its machine has. Kernels that cannot run here keep in memory what they keep there.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ml_models.config import ModelConfig
from ml_models.costs.fused_attention import attention_stand_ins, flash_attn_stand_in
from ml_models.costs.fused_norm import norm_stand_in
from ml_models.costs.largest_blocks import largest_blocks
from ml_models.costs.npu_kernels import npu_kernel_stand_ins
from ml_models.costs.packages import installed_packages
from ml_models.costs.stand_in_kernel import Launches
from ml_models.kernels.selection import Situation
from ml_models.platforms.cpu_device import CPU
from ml_models.platforms.device_core import WEIGHT_GRADIENTS, WeightGradientProducts
from ml_models.platforms.patch import Patch, temporarily

PACKAGES = {"cuda": frozenset({"triton"}), "npu": frozenset({"torch_npu"})}
"""Modules that the machine of a device of that type has for certain: torch brings triton on cuda,
and without torch_npu there is no npu."""


def packages_of(device: str, attention: str) -> frozenset[str]:
    """Modules that the device's machine counts as having, for a request of attention's form.

    flash-attn is there where it is asked for, as a run that asks for it would not start without.
    """
    packages = PACKAGES.get(device, frozenset())
    return packages | {"flash_attn"} if (device, attention) == ("cuda", "flash") else packages


@contextlib.contextmanager
def chosen_as_on(device: str, packages: frozenset[str]) -> Iterator[None]:
    """Inside, forms are chosen as on a machine with these packages."""
    # The forms of an npu look for the names of kernels in torch_npu.
    module = npu_kernel_stand_ins(_Silent()) if device == "npu" else contextlib.nullcontext()
    with module, temporarily((*installed_packages(packages), _adam_on(device))):
        yield


@contextlib.contextmanager
def forms_of(
    device: str, packages: frozenset[str], launches: Launches, compiled: Callable[..., object]
) -> Iterator[None]:
    """Inside, a model is built with the forms of `device`, and these run without values.

    device: type of torch's device, such as cuda. launches: told of attention and fused kernels.
    compiled: a function of a layer -> what stands for its compiled form.
    """
    rows: list[Patch] = [
        *installed_packages(packages),
        _adam_on(device),
        Patch(
            target="ml_models.layers.forms:situation_of",
            make=_situation_on(device),
            reason="tensors without values are on no device that has forms",
        ),
        Patch(
            target="ml_models.kernels.execution:_compiled",
            make=lambda _: compiled,
            reason="code that torch.compile writes cannot run without memory",
        ),
    ]
    modules: list[contextlib.AbstractContextManager[None]] = []
    if device == "cpu":
        # All blocks run: on a CPU their bytes are counted too, as they decide the time.
        rows.append(_blocks_of_cpu())
    else:
        rows += (*attention_stand_ins(launches), *largest_blocks(launches))
        rows.append(_weight_gradients_on(device))
    if device == "cuda":
        rows.append(norm_stand_in(launches))
        modules.append(flash_attn_stand_in(launches))
    if device == "npu":
        modules.append(npu_kernel_stand_ins(launches))
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(module)
        stack.enter_context(temporarily(rows))
        yield


def _situation_on(device: str) -> Callable[[Any], object]:
    """Makes situation_of answer for `device`, whatever device the model's tensors are on."""

    def make(original: Callable[..., Situation]) -> object:
        def situation_of(model: ModelConfig, *, dtype: str, **_: object) -> Situation:
            return original(model, device=device, dtype=dtype)

        return situation_of

    return make


def _adam_on(device: str) -> Patch:
    """torch_npu is taken to have the kernel, as Huawei's op-plugin has (kernels/adam.py)."""
    return Patch(
        target="ml_models.kernels.adam:why_not_fused",
        make=lambda original: lambda _: "" if device == "npu" else original(device),
        reason="the answer is for the device, and comes from torch_npu, which is not here",
    )


def _weight_gradients_on(device: str) -> Patch:
    return Patch(
        target=WEIGHT_GRADIENTS.target,
        make=lambda _: WeightGradientProducts(device),
        reason="the layers use the product that the device's platform puts in apex's place",
    )


def _blocks_of_cpu() -> Patch:
    return Patch(
        target="ml_models.kernels.attention.blocked:block_rows",
        make=lambda original: lambda length, heads, repeat, _: original(length, heads, repeat, CPU),
        reason="blocks have the sizes of a CPU",
    )


class _Silent:
    """Launches that nobody counts."""

    def record(self, *_: object, **__: object) -> None:
        """Forget it."""
