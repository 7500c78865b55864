"""ml-models list: a line for every model that has a name."""

import argparse

from ml_models import registry, terminal
from ml_models.commands.tables import Column, table
from ml_models.config import ModelConfig
from ml_models.parameters import billions, count_parameters

COLUMNS = (Column(16), Column(8), Column(10, right=True), Column(19, right=True), Column(15, True))


def add_arguments(_: argparse.ArgumentParser) -> None:
    """Add no flag: the command has none of its own."""


def run(_: argparse.Namespace) -> int:
    """Print name, architecture, layers, total and active parameters of every model."""
    rows = [_row(name, registry.get(name)) for name in registry.names()]
    terminal.result("\n".join(table(COLUMNS, rows)))
    return 0


def _row(name: str, model: ModelConfig) -> tuple[str, ...]:
    counts = count_parameters(model)
    return (
        name,
        model.architecture,
        f"{model.num_layers} layers",
        f"{billions(counts.total)} parameters",
        f"{billions(counts.active)} active",
    )
