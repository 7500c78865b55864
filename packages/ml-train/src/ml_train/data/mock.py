"""Made-up tokens for --mock-data: trials of speed, memory, layouts and resumes without any files.

Sequence n of a split is drawn at random from a generator seeded with (seed, split, n). Every rank
of every node makes the same sequence without an index or a file, and no sequence comes twice.
Tokens are uniform over the vocabulary, so the loss stays near the logarithm of its size.
"""

import numpy as np
import torch

from ml_train.data.origin import TokenSpan

NUM_SEQUENCES = 2**62
"""Endless in practice; sample numbers stay within int64."""


class MockSequences:
    """Random access to made-up sequences, with the keys of megatron-core's GPTDataset."""

    def __init__(
        self,
        *,
        vocab_size: int,
        sequence_length: int,
        seed: int,
        split: int,
        masked_id: int | None = None,
    ):
        """split: 0 for training, 1 for validation, 2 for test. masked_id: left out of the loss."""
        self._vocab_size = vocab_size
        self._sequence_length = sequence_length
        self._seed = (seed, split)
        self._masked_id = masked_id

    def __len__(self) -> int:
        return NUM_SEQUENCES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """tokens, labels, position_ids: int64 [sequence]; loss_mask: float32 [sequence]."""
        generator = np.random.default_rng((*self._seed, index))
        ids = torch.from_numpy(generator.integers(0, self._vocab_size, self._sequence_length + 1))
        tokens = ids[:-1].clone()
        mask = torch.ones(self._sequence_length)
        if self._masked_id is not None:
            mask[tokens == self._masked_id] = 0.0
        return {
            "tokens": tokens,
            "labels": ids[1:].clone(),
            "loss_mask": mask,
            "position_ids": torch.arange(self._sequence_length),
        }

    def origin(self, index: int) -> list[TokenSpan]:
        """The sequence itself, as there is no file that it is from."""
        return [{"prefix": "--mock-data", "sequence": index, "num_tokens": self._sequence_length}]
