"""Console command of ml-models: `ml-models COMMAND ...`; exit 0 done, 1 failed, 2 bad usage."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

from ml_models import __version__
from ml_models.errors import MlModelsError

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "list": "the models that have a name",
        "show": "a model's architecture, its parameters, and where each choice comes from",
        "convert": "weights between Hugging Face, xAI's release and Megatron checkpoints",
        "compare": "a model's outputs and gradients against a reference file's",
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="ml-models", description="Models on megatron-core.")
    parser.add_argument("--version", action="version", version=f"ml-models {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"Prints or makes: {text}.")
        if name in given:
            import_module(f"ml_models.commands.{name}").add_arguments(command)
    args = parser.parse_args(given)
    try:
        return int(import_module(f"ml_models.commands.{args.command}").run(args))
    except MlModelsError as error:
        print(f"ml-models {args.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
