"""A stand-in of torch_npu's transfer_to_npu: importing it turns torch.cuda into torch.npu.

Its documented effects: the names of torch.cuda become those of torch.npu, a device argument "cuda"
becomes "npu", and a backend "nccl" becomes "hccl".
"""

import functools

import torch

import torch_npu

_FACTORIES = (
    *("arange", "as_tensor", "empty", "empty_like", "empty_strided", "eye", "full", "full_like"),
    *("linspace", "load", "normal", "ones", "ones_like", "rand", "rand_like", "randint"),
    *("randint_like", "randn", "randn_like", "randperm", "scalar_tensor", "tensor", "zeros"),
    "zeros_like",
)
_TENSOR_METHODS = (
    *("new_empty", "new_empty_strided", "new_full", "new_ones", "new_tensor", "new_zeros"),
    *("pin_memory", "to"),
)
_DEVICE_ARGUMENTS = ("device", "device_id", "device_type", "map_location")


def _on_npu(value):
    """`value`, with cuda named npu where it names a device."""
    if isinstance(value, str) and (value == "cuda" or value.startswith("cuda:")):
        return value.replace("cuda", "npu")
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("npu", value.index) if value.index is not None else torch.device("npu")
    return value


def _with_npu_arguments(function):
    @functools.wraps(function)
    def wrapped(*arguments, **named):
        arguments = tuple(map(_on_npu, arguments))
        for name in _DEVICE_ARGUMENTS:
            if name in named:
                named[name] = _on_npu(named[name])
        return function(*arguments, **named)

    return wrapped


def _with_hccl(function):
    @functools.wraps(function)
    def wrapped(*arguments, **named):
        arguments = tuple(
            value.replace("nccl", "hccl") if isinstance(value, str) else value
            for value in arguments
        )
        if isinstance(named.get("backend"), str):
            named["backend"] = named["backend"].replace("nccl", "hccl")
        return function(*arguments, **named)

    return wrapped


def _replace(owner, names, wrap):
    for name in names:
        setattr(owner, name, wrap(getattr(owner, name)))


for _name in torch_npu.npu.__all__:
    setattr(torch.cuda, _name, getattr(torch_npu.npu, _name))
for _name in torch_npu.npu.random.__all__:
    setattr(torch.cuda.random, _name, getattr(torch_npu.npu.random, _name))
torch.cuda.default_generators = torch_npu.npu.default_generators
torch.cuda._lazy_call = torch_npu.npu._lazy_call
torch.cuda._lazy_init = torch_npu.npu._lazy_init

_replace(torch, _FACTORIES, _with_npu_arguments)
_replace(torch.Tensor, _TENSOR_METHODS, _with_npu_arguments)
_replace(torch.nn.Module, ("to", "to_empty"), _with_npu_arguments)
torch.Tensor.cuda = torch.Tensor.npu
torch.nn.Module.cuda = torch.nn.Module.npu
torch.Tensor.is_cuda = torch.Tensor.is_npu

_replace(torch.distributed, ("init_process_group", "new_group"), _with_hccl)
_replace(torch.distributed.ProcessGroup, ("_get_backend",), _with_npu_arguments)
torch.distributed.is_nccl_available = torch.distributed.is_hccl_available
