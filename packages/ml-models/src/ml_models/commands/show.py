"""ml-models show NAME: what a model is, how large, and where each choice comes from."""

import argparse
import json
from dataclasses import asdict
from typing import TypedDict

from ml_models import registry, terminal
from ml_models.commands.tables import Column, table
from ml_models.config import ModelConfig
from ml_models.parameters import billions, count_parameters

COUNTS = (Column(14), Column(18, right=True), Column(8, right=True), Column())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("name", help="a model's name, see ml-models list")
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(args: argparse.Namespace) -> int:
    """Print one model."""
    model = registry.get(args.name)
    facts = describe(args.name, model)
    terminal.result(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


class Choice(TypedDict):
    """A field of a model's configuration."""

    value: object
    source: str
    """Where the value comes from, such as a line of the released code."""


class Facts(TypedDict):
    """What `ml-models show --json` prints."""

    name: str
    architecture: str
    fields: dict[str, Choice]
    parameters: dict[str, int]
    """Numbers of parameters: in all, active, and per component."""


def describe(name: str, model: ModelConfig) -> Facts:
    """The facts of `model`, which the registry knows as `name`."""
    counts = count_parameters(model)
    values = model.to_dict()
    architecture = registry.architecture(model)
    del values["architecture"]
    return {
        "name": name,
        "architecture": model.architecture,
        "fields": {
            field: {"value": value, "source": architecture.source_of(name, field)}
            for field, value in values.items()
        },
        "parameters": {"total": counts.total, "active": counts.active, **asdict(counts)},
    }


def as_text(facts: Facts) -> str:
    """A page of text."""
    choices = [
        (field, str(choice["value"]), choice["source"]) for field, choice in facts["fields"].items()
    ]
    counts = [
        (part, f"{count:,}", billions(count), _note(part, count))
        for part, count in facts["parameters"].items()
    ]
    return "\n".join(
        [
            f"{facts['name']} ({facts['architecture']})",
            "",
            "Architecture",
            *table((Column(36), Column(20), Column()), choices, indent="  "),
            "",
            "Parameters",
            *table(COUNTS, counts, indent="  "),
        ]
    )


def _note(part: str, count: int) -> str:
    return "(tied to the embedding)" if part == "output" and not count else ""
