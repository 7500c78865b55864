"""The tensors of a pytorch_model.bin, whose pickle is interpreted and never run.

The numbers are read from the zip archive itself, so that no library unpickles the file. The format
that torch.save wrote before 1.6 is no archive and is refused.
"""

from collections.abc import Mapping
from pathlib import Path

from ml_models.errors import WeightError
from ml_models.files.inert import mapping_of
from ml_models.files.placeholders import placeholder
from ml_models.files.torch_zip import inspect_torch_zip
from ml_models.weights.archives import ArchivedTensors, tensor_call
from ml_models.weights.listed import NAMES, ListedTensor

WRAPPED_IN = ("state_dict", "module", "model")
"""Keys under which trainers keep the state_dict beside other objects of the file."""


def read_torch_file(path: Path) -> dict[str, ListedTensor]:
    """The tensors of a file. Raises WeightError where it is damaged or its pickle is refused."""
    try:
        if (reason := placeholder(path)) is not None:
            raise WeightError(f"{path}: {reason}.")
        with path.open("rb") as stream:
            value, archive = inspect_torch_zip(stream, str(path))
            archived = ArchivedTensors(archive, stream, path)
            weights = _state_dict(value)
            if weights is None:
                raise WeightError(f"{path}: it holds no table of tensors.")
            return {
                name: listed
                for name, entry in weights.items()
                if isinstance(name, str) and (listed := _listed(path, entry, archived)) is not None
            }
    except FileNotFoundError as error:
        raise WeightError(f"{path}: missing.") from error
    except OSError as error:
        raise WeightError(f"{path}: cannot be read ({error.strerror}).") from error


def _state_dict(value: object) -> Mapping[object, object] | None:
    weights = mapping_of(value)
    for key in WRAPPED_IN:
        inner = mapping_of(weights[key]) if weights and key in weights else None
        if inner is not None:
            return inner
    return weights


def _listed(path: Path, value: object, archived: ArchivedTensors) -> ListedTensor | None:
    """A tensor of the file's table; None for an entry that is no tensor."""
    stored = archived.find(value)
    if stored is not None:
        stored.check()
        return ListedTensor(path, stored.shape, NAMES[stored.dtype], stored)
    call = tensor_call(value)
    if call is None or len(call.arguments) < 3:
        return None
    storage, _, size = call.arguments[:3]
    if not isinstance(storage, tuple) or len(storage) < 2 or not isinstance(size, tuple):
        return None
    return ListedTensor(path, size, str(storage[1]), None)
