"""Small models of every architecture, and their spaces, for the tests of the search."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ml_train.config.flags import parse
from ml_train.config.load import LoadedConfig, load_config
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.search.space import SIZES, Candidate, Space, candidates

# Odd sizes: nothing is a multiple of what buffers are padded to.
_ODD = (
    *("--seq-length", "64", "--model-override", "num_layers=4", "hidden_size=48"),
    *("vocab_size=1000", "num_experts=4"),
)
MODELS = {
    "grok1": ("--model", "grok1-tiny", *_ODD, "ffn_hidden_size=72"),
    "mixtral": ("--model", "mixtral-tiny", *_ODD, "ffn_hidden_size=72"),
    "grok2": ("--model", "grok2-tiny", *_ODD, "ffn_hidden_size=72", "dense_ffn_hidden_size=56"),
}


def loaded(model: str, *flags: str) -> LoadedConfig:
    """The configuration of one of MODELS."""
    return load_config(parse([*MODELS[model], "--global-batch-size", "48", *flags]))


def space_of(
    run: LoadedConfig, world: int, *, vary: tuple[str, ...] = SIZES, devices_per_node: int = 4
) -> list[Candidate]:
    """All candidates."""
    space = Space(world=world, devices_per_node=devices_per_node, vary=vary)
    return list(candidates(run.config, run.model, space))


@contextlib.contextmanager
def planning() -> Iterator[MetaPlatform]:
    """A platform whose context is entered."""
    platform = MetaPlatform()
    platform.apply()
    with platform.context():
        yield platform
