"""The loss over token files, with a model that is a function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from token_files import write_tokens

from ml_train.errors import DataError
from ml_train.generation.evaluate import Evaluation, evaluate_files, windows


def test_windows_predict_each_token_once() -> None:
    tokens = np.arange(11)
    for length in (1, 3, 10, 50):
        pieces = list(windows(tokens, length, None))
        assert np.concatenate([piece[1:] for piece in pieces]).tolist() == list(range(1, 11))
    assert [len(piece) for piece in windows(tokens, 4, 6)] == [5, 3]
    assert list(windows(tokens[:1], 4, None)) == []


def test_evaluation_sums_over_files(tmp_path: Path) -> None:
    prefix = write_tokens(tmp_path / "tokens", lengths=[5, 8, 4])

    def losses(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert (labels - tokens == 1).all() and len(tokens) <= 2
        return labels.float()

    settings = {"vocab_size": 17, "sequence_length": 3, "batch_size": 2, "max_tokens": None}
    evaluations = evaluate_files(losses, [prefix], **settings)
    assert evaluations == {prefix: Evaluation(loss_sum=136.0, num_tokens=16)}
    assert evaluations[prefix].loss == 8.5 and evaluations[prefix].perplexity == pytest.approx(
        4914.77, 1e-5
    )
    with pytest.raises(DataError, match="document 2 holds the token id 16 at offset 3, .* 0 to 15"):
        evaluate_files(losses, [prefix], **{**settings, "vocab_size": 16})
    single = write_tokens(tmp_path / "one", lengths=[1])
    with pytest.raises(DataError, match="no token to predict"):
        evaluate_files(losses, [single], **settings)
