"""Writes Grok-2 in the form of xAI's release, for a chosen number of ranks.

The bytes of a file are those that the safetensors library writes for the same tensors. A file is
one kind of matrix of all layers, as in the release: 34 GB at most in grok2-270b, 17 GB of a rank.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_models.errors import WeightError
from ml_models.formats.huggingface.sink import HuggingFaceSink, in_library_order
from ml_models.grok2.config import Grok2Config
from ml_models.grok2.release.layout import FileName, file_of, presharded_map, tensor_and_rank
from ml_models.weights.sink import FileRecord, SinkOptions, Target, target_dtypes
from ml_models.weights.source import Reader

NUM_RANKS = 8  # of the release
_MOST_RANKS = 1000  # three digits


class PreshardedSink(HuggingFaceSink):
    """Writes a folder like the release."""

    format = "presharded"

    def _name_files(self, groups: list[list[Target]]) -> Iterator[tuple[str, list[Target]]]:
        """A file per kind and rank, whatever its size: `groups` are made by size for others."""
        files: dict[FileName, list[Target]] = defaultdict(list)
        for target in (target for group in groups for target in group):
            files[file_of(target.name)].append(target)
        for file in sorted(files):
            yield str(file), in_library_order(files[file])

    def _stored_name(self, target: Target) -> str:
        """All ranks' slices of a tensor have its name."""
        return tensor_and_rank(target.name)[0]

    def finish(self, folder: Path, _: Mapping[str, FileRecord]) -> None:
        """Write config.json; the release has no index."""
        self._write_config(folder)


def make_presharded_sink(reader: Reader, options: SinkOptions) -> PreshardedSink:
    """A sink for Grok-2. Raises WeightError for other models and for what has no place."""
    model = reader.source.model
    if not isinstance(model, Grok2Config):
        raise WeightError(
            f"--to presharded: xAI's presharded files hold Grok-2, not {model.architecture}."
        )
    if not model.untie_embeddings_and_output_weights:
        raise WeightError(
            "--to presharded: the model's output is its embedding, and the release has a file for "
            "lm_head.weight, which engines load; write --to huggingface."
        )
    num_ranks = NUM_RANKS if options.presharded_ranks is None else options.presharded_ranks
    width = model.ffn_hidden_size
    if not 1 <= num_ranks <= _MOST_RANKS or width % num_ranks:
        choices = [str(n) for n in range(1, min(width, 64) + 1) if width % n == 0]
        raise WeightError(
            f"--presharded-ranks is {num_ranks}; it must divide ffn_hidden_size ({width}), as "
            f"every rank gets an equal share of each expert: {', '.join(choices)} do."
        )
    weights = presharded_map(model, num_ranks)
    sink = PreshardedSink(model, weights, target_dtypes(reader, weights, options.dtype), options)
    sink.add_notes()
    return sink
