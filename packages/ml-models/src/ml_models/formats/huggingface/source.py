"""Weights in a Hugging Face folder, opened and not yet read."""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import WeightError
from ml_models.formats.huggingface.config_json import CONFIG, config_of, read_values
from ml_models.formats.huggingface.names import (
    EMBEDDING,
    INVERSE_FREQUENCIES,
    OUTPUT,
    in_the_models_names,
    is_buffer,
)
from ml_models.formats.huggingface.refusals import ADAPTER, explain_tensors, read_quietly
from ml_models.formats.huggingface.weight_files import list_tensors, same_numbers
from ml_models.weights.arrays import StoredTensor
from ml_models.weights.boxes import Box
from ml_models.weights.listed import DTYPES, ListedTensor
from ml_models.weights.maps import WeightMap, build_map
from ml_models.weights.source import TensorInfo, check_names, identity_of

_FREQUENCY_TOLERANCE = {"F32": 1e-4, "F64": 1e-4, "BF16": 1e-2, "F16": 1e-2}
"""Relative; a table in half precision is rounded by up to 2^-8."""


class HuggingFaceSource:
    """A folder, opened. Raises WeightError for a folder that is not read."""

    format = "huggingface"

    def __init__(
        self, folder: Path, model: ModelConfig | None = None, variant: str | None = None
    ) -> None:
        self._folder = folder
        self._values: Mapping[str, object] = read_quietly(folder / CONFIG)
        if model is None and (folder / CONFIG).is_file():
            self._values = read_values(folder)
            model = config_of(self._values, str(folder / CONFIG), variant)
        listed, self.notes = list_tensors(folder)
        self.model = model or self._without_a_config(listed)
        tables = registry.architecture(self.model).weights()
        self.weights: WeightMap = build_map(
            tables.huggingface_rows(self.model), tables.shapes(self.model), self.model
        )
        needed = set(self.weights.tensor_shapes)
        # Names come first: buffers and the tied copy are known by the model's own names.
        listed, notes = in_the_models_names(listed, needed)
        self.notes += notes
        self._drop_buffers(listed, needed)
        self._drop_tied_copy(listed)
        self._stored = self._check(listed, needed)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(stored.shape, stored.dtype) for name, stored in self._stored.items()
        }
        self._note_what_is_ignored()

    def _without_a_config(self, listed: Mapping[str, ListedTensor]) -> NoReturn:
        """Raise WeightError for a folder that does not say what model its weights are of."""
        reason = explain_tensors(listed, {}, tied=True, needed=set())
        raise WeightError(
            f"{self._folder}: "
            + (
                reason
                or f"no {CONFIG}, which says what model the weights are of; put it there, or name "
                "the model with --model or --config"
            )
            + "."
        )

    def _drop_buffers(self, listed: dict[str, ListedTensor], needed: set[str]) -> None:
        """Remove tables that the model computes; RoPE's must be those of the configuration."""
        buffers = [name for name in listed if name not in needed and is_buffer(name)]
        for name in buffers:
            tensor = listed.pop(name)
            if INVERSE_FREQUENCIES.fullmatch(name) and tensor.stored is not None:
                self._check_frequencies(name, tensor.stored, tensor.dtype)
        if buffers:
            more = f" and {len(buffers) - 1} more" if len(buffers) > 1 else ""
            self.notes.append(f"left out, as the model computes it itself: {buffers[0]}{more}")

    def _check_frequencies(self, name: str, stored: StoredTensor, dtype: str) -> None:
        size, base = self.model.kv_channels, self.model.rotary_base
        # RoPE turns the pair i of a head by position * base^(-2i / head size).
        powers = torch.arange(0, size, 2, dtype=torch.float64) / size
        expected = 1.0 / base**powers
        given = stored.read(Box.whole(stored.shape)).double().reshape(-1)
        limit = _FREQUENCY_TOLERANCE[dtype]
        if given.shape == expected.shape and torch.allclose(given, expected, rtol=limit, atol=0):
            return
        raise WeightError(
            f"{stored.path}: {name} is not the table of RoPE with base {base:g} and head size "
            f"{size}; the weights were trained with other positions than the configuration says."
        )

    def _drop_tied_copy(self, listed: dict[str, ListedTensor]) -> None:
        """Remove a tied model's lm_head.weight, or take it for the embedding that is absent."""
        copy, original = listed.get(OUTPUT), listed.get(EMBEDDING)
        if self.model.untie_embeddings_and_output_weights or copy is None:
            return
        if original is None and EMBEDDING in self.weights.tensor_shapes:
            listed[EMBEDDING] = listed.pop(OUTPUT)
            self.notes.append(f"{EMBEDDING}: stored as {OUTPUT}, which the model ties to it")
            return
        if original is None:
            return
        if not same_numbers(copy, original):
            raise WeightError(
                f"{self._folder}: {OUTPUT} differs from {EMBEDDING} though the model ties them; "
                "set tie_word_embeddings to false if they are meant to differ."
            )
        del listed[OUTPUT]
        self.notes.append(f"{OUTPUT}: equal to {EMBEDDING}, which it repeats")

    def _check(
        self, listed: Mapping[str, ListedTensor], needed: set[str]
    ) -> dict[str, StoredTensor]:
        """The places of the tensors. Raises WeightError unless they are those of the model."""
        tied = not self.model.untie_embeddings_and_output_weights
        reason = explain_tensors(listed, self._values, tied=tied, needed=needed)
        if reason is not None:
            raise WeightError(f"{self._folder}: {reason}.")
        shown = {name: TensorInfo(tensor.shape, torch.float32) for name, tensor in listed.items()}
        check_names(str(self._folder), shown, self.weights.tensor_shapes)
        stored = {}
        for name, tensor in listed.items():
            if tensor.stored is None:
                raise WeightError(
                    f"{tensor.path}: {name} is {tensor.dtype}, or its numbers do not lie row by "
                    f"row; weights are {', '.join(DTYPES)}. Save the model again with "
                    "save_pretrained, which writes safetensors."
                )
            stored[name] = tensor.stored
        return stored

    def _note_what_is_ignored(self) -> None:
        if self._values.get("quantization_config"):
            self.notes.append(
                f"{CONFIG}: quantization_config has no effect, as no weight is quantized"
            )
        if (self._folder / ADAPTER).is_file():
            self.notes.append("the adapter in the folder is not merged into the weights")

    def read(self, name: str, box: Box) -> Tensor:
        """A block of a tensor."""
        return self._stored[name].read(box)

    def identity(self) -> object:
        """Files with size and time of change."""
        paths = sorted({stored.path for stored in self._stored.values()})
        return identity_of(paths)
