"""Notices of a healthy start are hidden while a command runs, and only those, and only then."""

import logging
import warnings

import pytest

from ml_models.megatron_core import notices

LOGGER = logging.getLogger("torch.utils.cpp_extension")


def test_known_notices_are_hidden_and_others_shown(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with notices.hidden():
            warnings.warn("Apex is not installed. Falling back to Torch Norm", stacklevel=1)
            warnings.warn("Loss is not finite", stacklevel=1)
            LOGGER.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/usr/local")
            LOGGER.warning("the compiler failed")
        shown = [str(record.message) for record in seen]
    assert "Apex is not installed. Falling back to Torch Norm" not in shown
    assert [record.getMessage() for record in caplog.records] == ["the compiler failed"]


def test_nothing_is_hidden_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    with notices.hidden():
        pass
    with pytest.warns(UserWarning, match="Transformer Engine and Apex are not installed"):
        warnings.warn("Transformer Engine and Apex are not installed.", stacklevel=1)
    LOGGER.warning("No CUDA runtime is found, using CUDA_HOME='/usr/local'")
    assert len(caplog.records) == 1
    assert not LOGGER.filters
