"""From the name of a form of the experts to its function."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from ml_models.kernels.experts.grouped import GroupedExpertFunction
from ml_models.kernels.experts.loop import ExpertFunction

EXPERT_FUNCTIONS: Mapping[str, type[torch.autograd.Function]] = MappingProxyType(
    {
        "loop": ExpertFunction,
        "grouped_mm": GroupedExpertFunction,
        "npu_grouped_matmul": GroupedExpertFunction,
    }
)
"""By the form's name in kernels/forms.py. All take the arguments of ExpertFunction."""
