"""ml-models list: one line per named model."""

import argparse

from ml_models import registry, terminal
from ml_models.parameters import billions, count_parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Name, architecture, total and active parameters."""
    for name in registry.names():
        model = registry.get(name)
        counts = count_parameters(model)
        terminal.result(
            f"{name:<18}{model.architecture:<10}{model.num_layers:>3} layers  "
            f"{billions(counts.total):>8} parameters  {billions(counts.active):>8} active"
        )
    return 0
