"""ml-models show NAME: what a model is, how large, and where each choice comes from."""

import argparse
import json
from typing import Any

from ml_models import registry, terminal
from ml_models.config import ModelConfig
from ml_models.parameters import billions, count_parameters


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


def describe(name: str, model: ModelConfig) -> dict[str, Any]:
    """Architecture, fields with sources, parameters."""
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
        "parameters": {
            "total": counts.total,
            "active": counts.active,
            "embedding": counts.embedding,
            "output": counts.output,
            "attention": counts.attention,
            "router": counts.router,
            "experts": counts.experts,
            "active_experts": counts.active_experts,
            "norms": counts.norms,
        },
    }


def as_text(facts: dict[str, Any]) -> str:
    """A page of text."""
    lines = [f"{facts['name']} ({facts['architecture']})", "", "Architecture"]
    for field, entry in facts["fields"].items():
        lines.append(f"  {field:<38}{entry['value']!s:<22}{entry['source']}")
    lines += ["", "Parameters"]
    for part, count in facts["parameters"].items():
        note = "  (tied to the embedding)" if part == "output" and not count else ""
        lines.append(f"  {part:<16}{count:>18,}  {billions(count):>8}{note}")
    return "\n".join(lines)
