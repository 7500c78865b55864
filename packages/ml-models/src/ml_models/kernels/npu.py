"""torch_npu's module, for the forms that call its kernels.

The npu platform has imported it. No NPU was available to this project: the calls are tested against
stand-ins of the documented contract, the kernels themselves are not.
"""

import importlib
from types import ModuleType


def torch_npu() -> ModuleType:
    """The module; a form that is chosen without it is a fault of ours (kernels/forms.py)."""
    return importlib.import_module("torch_npu")
