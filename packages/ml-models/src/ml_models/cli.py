"""Console command of ml-models: `ml-models COMMAND ...`. Exit codes are those of errors.py."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

from ml_models import __version__, terminal
from ml_models.command_line import fault_of_words, run_command, unknown_flag
from ml_models.errors import EXIT_CODES
from ml_models.megatron_core import notices, requirements

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
        # Only the command that runs is imported: some import torch, which takes seconds.
        if given[:1] == [name]:
            import_module(f"ml_models.commands.{name}").add_arguments(command)
            command.add_argument(
                "--logging-level",
                choices=tuple(terminal.LEVELS),
                default=terminal.DEFAULT_LEVEL,
                help="the messages that are shown on stderr, from few to many (default: notice)",
            )
            chosen = command
    _check_flags(chosen, given)
    args = parser.parse_args(given)

    def command_itself() -> int:
        if args.command == "compare":  # the only command that builds a model
            requirements.require_core()
        with requirements.explained(), notices.hidden():
            return int(import_module(f"ml_models.commands.{args.command}").run(args))

    with terminal.speaking(args.logging_level):
        return run_command(
            command_itself, tell=terminal.error, detail=terminal.detail, codes=EXIT_CODES
        )


def _check_flags(parser: argparse.ArgumentParser, given: Sequence[str]) -> None:
    """Name a misspelt flag before argparse complains that the right one is missing; exit code 2."""
    known = [option for action in parser._actions for option in action.option_strings]
    for word in given:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            sentence = unknown_flag(word, known)
            parser.error(sentence[0].lower() + sentence[1:])  # as argparse's own begin
    fault = fault_of_words(parser, given)
    if fault is not None:
        parser.error(fault)


if __name__ == "__main__":
    raise SystemExit(main())
