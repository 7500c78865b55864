"""Every command of the documentation, read by the parser that would read it; nothing is run.

A page and its translation must have the same commands, block by block. Comments may differ.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from argparse import Namespace
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOBS = ("*.md", "docs/**/*.md", "packages/*/README.md", "benchmarks/**/*.md", "examples/**/*.md")
PAGES = sorted(path for pattern in GLOBS for path in ROOT.glob(pattern))
TRANSLATIONS = (
    ("README.md", "README.zh-CN.md"),
    ("docs/grok1-40b.md", "docs/zh/grok1-40b.md"),
)

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"(<<'(\w+)')\n.*?^\2$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Z_]+=")
SHELL = ("bash", "sh", "shell")
STARTS = re.compile(r"(ml-data|ml-models|ml-train|ml-train-launch|python|pip|bash) ")
"""How a block without a language begins if it holds commands."""
SEPARATORS = {";", "&&", "||", "|", "&", "(", ")"}
REDIRECTIONS = {">", ">>", "<", "<<", ">&"}

SCRIPTS = {
    "tools/preprocess_data.py": ["ml-data", "tokenize"],
    "tools/convert_checkpoint.py": ["ml-models", "convert"],
}
"""Thin entry points, and the command that each stands for."""
CONSOLE = {"ml-data": "ml_data", "ml-models": "ml_models", "ml-train": "ml_train"}
LEFT_OUT = {
    "tokenize": "--input a --tokenizer-name-or-path b --output-prefix c",
    "pretrain": "",
}
"""What `...` in a command stands for: the flags that its parser requires."""
FILES_OF_THE_READER = {"--config", "--recipe", "--model-config"}
"""Flags that name a file which only the reader of a page has."""
NAMES_OF_A_PAGE = {"llama-tiny", "toy"}
"""A model and a platform that a page adds; packages/ml-models/tests follows that page."""


@dataclass(frozen=True)
class Command:
    """One shell command of a page."""

    page: str
    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)[:60]}"


def shell_words(text: str) -> list[str]:
    """The words of a shell script without comments and here-documents; `;` ends a line."""
    lines = HEREDOC.sub(r"\1", text).replace("\\\n", " ").replace("\n", " ;\n")
    lexer = shlex.shlex(lines, posix=True, punctuation_chars=";<>|&()")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    # A comment takes the `;` of its line along, so the words after it begin a new line by number.
    words: list[str] = []
    line = lexer.lineno
    for word in lexer:
        if lexer.lineno != line and words and words[-1] != ";":
            words.append(";")
        line = lexer.lineno
        words.append(word)
    return words


def statements(text: str) -> list[list[str]]:
    """A script's commands, pipes cut into their parts, redirections left out."""
    commands: list[list[str]] = [[]]
    is_target = False
    for word in shell_words(text):
        if word in SEPARATORS:
            commands.append([])
        elif word in REDIRECTIONS:
            is_target = True
        elif is_target:
            is_target = False
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def shell_blocks(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [
        block
        for language, block in FENCE.findall(text)
        if language in SHELL or (not language and STARTS.match(block))
    ]


def commands_of(path: Path) -> list[Command]:
    """The page's commands that start a program of this repository."""
    page = path.relative_to(ROOT).as_posix()
    commands = []
    for block in shell_blocks(path):
        exported: dict[str, str] = {}
        for words in statements(block):
            if words[0] == "export":
                exported |= dict(word.split("=", 1) for word in words[1:] if "=" in word)
                continue
            variables = dict(exported)
            while words and ASSIGNMENT.match(words[0]):
                name, value = words.pop(0).split("=", 1)
                variables[name] = value
            program = program_of(words)
            if program:
                commands.append(Command(page, tuple(program), tuple(variables.items())))
    return commands


def program_of(words: list[str]) -> list[str]:
    """The command as a console command, or as `bash LAUNCHER`; empty where it is another's."""
    name = Path(words[0]).name if words else ""
    if name in (*CONSOLE, "ml-train-launch") and len(words) > 1:
        return [name, *words[1:]]
    script = str(Path(words[1])) if len(words) > 1 else ""
    if name == "python" and script in SCRIPTS:
        return [*SCRIPTS[script], *words[2:]]
    if name == "bash" and Path(script).name.startswith("pretrain_"):
        return ["bash", script, *words[2:]]
    return []


COMMANDS = [command for path in PAGES for command in commands_of(path)]


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """A folder with an ml-train-launch that prints its arguments."""
    stub = tmp_path / "bin" / "ml-train-launch"
    stub.parent.mkdir()
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    return stub.parent


def parse_console(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `words` to the console command, whose command module notes the call and does nothing."""
    package = CONSOLE[words[0]]
    arguments = words[1:]
    if "..." in arguments:
        at = arguments.index("...")
        arguments[at : at + 1] = LEFT_OUT[arguments[0]].split()
    arguments = ["1" if word.startswith("$") else word for word in arguments]
    module = import_module(f"{package}.commands.{arguments[0].replace('-', '_')}")
    parsed: list[Namespace] = []

    def note(namespace: Namespace) -> int:
        parsed.append(namespace)
        return 0

    main = import_module(f"{package}.cli").main
    with monkeypatch.context() as patch:
        patch.setattr(module, "run", note)
        assert main(arguments) == 0
    assert len(parsed) == 1
    of_the_reader = (FILES_OF_THE_READER | NAMES_OF_A_PAGE) & set(arguments)
    if words[:2] == ["ml-train", "pretrain"] and not of_the_reader:
        # The same flags, and the values that they come to: model, layout, contradictions.
        assert main(["show-config", *arguments[1:]]) == 0


def parse_launch(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """ml-train-launch takes torchrun's flags; what follows `-m ml_train.cli` is ml-train's."""
    run = import_module("torch.distributed.run")
    flags = run.parse_args([word for word in arguments if word != "..."])
    assert flags.module and flags.training_script == "ml_train.cli"
    parse_console(["ml-train", *flags.training_script_args], monkeypatch)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_of_the_documentation_is_parsed(
    command: Command, launcher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = list(command.words)
    if words[0] == "bash":
        environment = {**os.environ, **dict(command.environment)}
        environment["PATH"] = f"{launcher}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        words = ["ml-train-launch", *done.stdout.splitlines()]
    if words[0] == "ml-train-launch":
        parse_launch(words[1:], monkeypatch)
    else:
        parse_console(words, monkeypatch)


def test_commands_are_found_on_every_page_that_teaches() -> None:
    pages = {command.page for command in COMMANDS}
    assert pages >= {
        "docs/grok1-40b.md", "docs/zh/grok1-40b.md", "docs/conversion.md", "docs/checkpoints.md",
        "docs/from-modellink.md", "packages/ml-data/README.md", "packages/ml-models/README.md",
        "packages/ml-train/README.md",
    }  # fmt: skip
    guide = [command.words for command in COMMANDS if command.page == "docs/grok1-40b.md"]
    assert len(guide) >= 15
    assert {words[0] for words in guide} == {"ml-data", "ml-models", "ml-train", "bash"}


@pytest.mark.parametrize(("page", "translation"), TRANSLATIONS)
def test_a_translation_has_the_same_commands_block_by_block(page: str, translation: str) -> None:
    wanted = [shell_words(block) for block in shell_blocks_with_language(page)]
    given = [shell_words(block) for block in shell_blocks_with_language(translation)]
    assert len(wanted) > 1
    assert given == wanted


@pytest.mark.parametrize(("page", "translation"), TRANSLATIONS)
def test_a_translation_has_the_same_sections_and_tables(page: str, translation: str) -> None:
    def shape(name: str) -> list[str]:
        """Heading marks, and the number of cells of each row of a table."""
        text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
        lines = (line for line in text.splitlines() if line.startswith(("#", "|")))
        return [
            line.split(" ")[0] if line.startswith("#") else str(line.count("|")) for line in lines
        ]

    assert shape(translation) == shape(page)


def shell_blocks_with_language(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for language, block in FENCE.findall(text) if language == "bash"]


def test_a_changed_command_of_a_translation_is_seen() -> None:
    page = "ml-data verify x  # reads it\nml-data inspect x \\\n    --json\n"
    same = "ml-data verify x  # \u8bfb\u53d6\nml-data inspect x --json\n"
    assert shell_words(same) == shell_words(page)
    assert shell_words(same.replace("--json", "")) != shell_words(page)
    assert statements(page) == [["ml-data", "verify", "x"], ["ml-data", "inspect", "x", "--json"]]
    assert statements("A=1 ml-data inspect a > b | sort") == [
        ["A=1", "ml-data", "inspect", "a"], ["sort"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["ml-data", "verify", "x", "--no-such-flag"],
        ["ml-models", "convert", "--from", "xai"],
        ["ml-train", "pretrain", "--model", "grok1-tinny"],
    ],
)
def test_a_wrong_command_is_an_error(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        parse_console(words, monkeypatch)


# Commands inside sentences are often shortened, so only their flags are looked up.
SPAN = re.compile(r"`((?:ml-data|ml-models|ml-train) [^`]+)`")
FLAG = re.compile(r"--[a-z][a-z0-9-]+")
NO_COMMAND = "ml-data manifest"
"""The value of a field in docs/data-format.md."""


def spans() -> list[tuple[str, str]]:
    commands = []
    for path in PAGES:
        text = FENCE.sub("", path.read_text(encoding="utf-8"))
        commands += [(path.name, " ".join(span.split())) for span in SPAN.findall(text)]
    return sorted({(page, span) for page, span in commands if span != NO_COMMAND})


@pytest.mark.parametrize(("page", "span"), spans())
def test_a_command_inside_a_sentence_exists(
    page: str, span: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program, command, *words = span.split()
    main = import_module(f"{CONSOLE[program]}.cli").main
    try:
        code = main([command, "--help"])
    except SystemExit as error:
        code = error.code
    known = capsys.readouterr().out
    assert code == 0, f"{page}: {program} has no command {command}"
    unknown = [
        flag for flag in FLAG.findall(" ".join(words)) if not re.search(rf"{flag}(?![\w-])", known)
    ]
    assert not unknown, f"{page}: `{span}`"
