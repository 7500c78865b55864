"""Warnings that torch and megatron-core give at a healthy start and no user can act on.

A command enters `hidden`; a program that uses the packages as libraries sees everything.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Pattern of a Python warning, and why a user cannot act on it.
WARNINGS = (
    (r".*(Apex|Transformer Engine).*not installed", "kernels that are not needed"),
    (r".*full scope is deprecated", "a default of TransformerConfig that core warns of itself"),
    (r".*is experimental and still under active development", "core's classes that are not used"),
    (r".*CUDA_DEVICE_MAX_CONNECTIONS", "core asks for it on devices that do not read it"),
    (
        r".*((all_gather_into_tensor|reduce_scatter_tensor|load_state_dict).* is deprecated"
        r"|Please use DTensor instead)",
        "core's own calls of torch",
    ),
    (
        r"(The argument order of load has been changed|torch.distributed is disabled, unavailable)",
        "core 0.19 has each rank read its own part of a checkpoint, by torch's load",
    ),
    (r"The .grad attribute of a Tensor that is not a leaf", "core's pipeline schedule reads it"),
)
# Logger, beginning of its message, and why a user cannot act on it.
LOGS = (
    (
        "torch.utils.cpp_extension",
        "No CUDA runtime is found",
        "a CUDA build of torch beside a CUDA toolkit, on a machine without a GPU",
    ),
    ("torch.utils.flop_counter", "triton not found", "no FLOPs are counted with it"),
)


@contextmanager
def hidden() -> Iterator[None]:
    """Inside, the warnings of WARNINGS and the log messages of LOGS are not shown."""
    filters = [(logging.getLogger(name), _Without(beginning)) for name, beginning, _ in LOGS]
    with warnings.catch_warnings():
        for pattern, _ in WARNINGS:
            warnings.filterwarnings("ignore", pattern)
        for logger, without in filters:
            logger.addFilter(without)
        try:
            yield
        finally:
            for logger, without in filters:
                logger.removeFilter(without)


class _Without(logging.Filter):
    """Drops the records whose message begins with a certain text."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._beginning)
