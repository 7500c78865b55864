"""Console command of ml-models: `ml-models COMMAND ...`; exit 0 done, 1 failed, 2 bad usage."""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType

from ml_models import __version__
from ml_models.errors import MlModelsError

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "list": ("the models that have a name", "ml-models list"),
        "show": (
            "a model's architecture, its parameters, and where each choice comes from",
            "ml-models show grok1-40b",
        ),
        "convert": (
            "weights between Hugging Face, xAI's release and Megatron checkpoints",
            "ml-models convert --from xai --to megatron --input ckpt-0 --model grok1-314b "
            "--dtype bf16 --output grok1",
        ),
        "compare": (
            "a model's outputs and gradients against a reference file's",
            "ml-models compare --weights grok1-hf --reference reference.safetensors",
        ),
    }
)
"""Help and an example of each."""

# From megatron-core's import, about kernels of other devices: no user can act on them.
_NOT_FOR_USERS = (r".*(Apex|Transformer Engine).*not installed", r".*full scope is deprecated")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="ml-models", description="Mixture-of-experts models on megatron-core."
    )
    parser.add_argument("--version", action="version", version=f"ml-models {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = parser
    for name, (text, example) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example: {example}",
            allow_abbrev=False,
        )
        if given[:1] == [name]:
            import_module(f"ml_models.commands.{name}").add_arguments(command)
            chosen = command
    _check_flags(chosen, given)
    args = parser.parse_args(given)
    try:
        with warnings.catch_warnings():
            for text in _NOT_FOR_USERS:
                warnings.filterwarnings("ignore", text)
            return int(import_module(f"ml_models.commands.{args.command}").run(args))
    except MlModelsError as error:
        print(f"ml-models: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _check_flags(parser: argparse.ArgumentParser, given: Sequence[str]) -> None:
    """A misspelt flag is named before argparse complains that the right one is missing; exit 2."""
    known = [option for action in parser._actions for option in action.option_strings]
    for word in given:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            nearest = get_close_matches(flag, known, n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            parser.error(f"unknown flag {flag}.{hint}")


if __name__ == "__main__":
    raise SystemExit(main())
