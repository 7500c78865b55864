"""What build.py computes without a device: the padded vocabulary."""

import pytest

from ml_models.build import pad_vocab_size
from ml_models.errors import ConfigError


def test_vocabulary_padding() -> None:
    assert pad_vocab_size(131072, 128, 4) == 131072
    assert pad_vocab_size(1000, 128, 2) == 1024
    with pytest.raises(ConfigError, match="tp is 0"):
        pad_vocab_size(1000, 128, 0)
