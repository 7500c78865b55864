"""The tensors of a pytorch_model.bin, whose pickle is interpreted and never run.

The numbers are read straight from the zip archive, so no library unpickles anything. torch.save's
format before 1.6, which is no archive, is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_models.errors import WeightError
from ml_models.files.pickles import Call, inspect_torch_zip, mapping_of
from ml_models.files.placeholders import placeholder
from ml_models.formats.huggingface.tensors import NAMES, ListedTensor
from ml_models.weights.archives import TensorPlaces

WRAPPED_IN = ("state_dict", "module", "model")
"""Keys under which trainers keep the state_dict in one file with other things."""


def read_torch_file(path: Path) -> dict[str, ListedTensor]:
    """The tensors of one file; WeightError when it is damaged or its pickle asks for more."""
    try:
        if (reason := placeholder(path)) is not None:
            raise WeightError(f"{path}: {reason}.")
        with path.open("rb") as stream:
            value, archive = inspect_torch_zip(stream, str(path))
            places = TensorPlaces(archive, stream, path)
            weights = _state_dict(value)
            if weights is None:
                raise WeightError(f"{path}: it holds no table of tensors.")
            return {
                name: listed
                for name, entry in weights.items()
                if isinstance(name, str) and (listed := _listed(path, entry, places)) is not None
            }
    except FileNotFoundError as error:
        raise WeightError(f"{path}: missing.") from error
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror}).") from error


def _state_dict(value: Any) -> Mapping[Any, Any] | None:
    weights = mapping_of(value)
    for key in WRAPPED_IN:
        inner = mapping_of(weights[key]) if weights and key in weights else None
        if inner is not None:
            return inner
    return weights


def _listed(path: Path, value: Any, places: TensorPlaces) -> ListedTensor | None:
    """None for what is no tensor."""
    stored = places.find(value)
    if stored is not None:
        stored.check()
        return ListedTensor(path, stored.shape, NAMES[stored.dtype], stored)
    if isinstance(value, Call) and str(value.function) == "torch._utils._rebuild_parameter":
        value = value.arguments[0] if value.arguments else None
    if not isinstance(value, Call) or len(value.arguments) < 3:
        return None
    storage, _, size = value.arguments[:3]
    if not isinstance(storage, tuple) or len(storage) < 2 or not isinstance(size, tuple):
        return None
    return ListedTensor(path, size, str(storage[1]), None)
