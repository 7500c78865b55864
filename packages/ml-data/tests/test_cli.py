"""Exit codes, one-line errors, the lazy API, dry runs."""

import argparse
import dataclasses
import importlib
import inspect
import json
import os
import pty
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import ml_data
from ml_data.cli import COMMANDS, main

from .conftest import write_lines


def arguments(sample: Path, tokenizer: Path, prefix: Path, *more: str) -> list[str]:
    """A command with these flags, and one worker unless they say otherwise."""
    workers = [] if "--workers" in more else ["--workers", "1"]
    return [
        *("tokenize", "--input", str(sample), "--tokenizer-name-or-path", str(tokenizer)),
        *("--output-prefix", str(prefix), *workers, *more),
    ]


def test_exit_codes(
    tmp_path: Path, sample: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good = arguments(sample, tokenizer_path, tmp_path / "p")
    assert main(good) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'p_text_document'}: 953 documents")
    assert main(arguments(sample, tokenizer_path, tmp_path / "p", "--workers", "0")) == 2
    assert main([*good, "--json-keys", "body"]) == 1
    assert "no column 'body'; it has: instruction" in capsys.readouterr().err
    assert main([*good, "--template", "{body}"]) == 1
    assert "Name another with --template" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "missing")]) == 1
    assert capsys.readouterr().out.endswith("a dataset is a pair of .bin and .idx\n")
    for wrong, meant in (("--wrokers=2", "--workers"), ("--worker", "--workers")):
        with pytest.raises(SystemExit) as exit_:
            main([*good, wrong])
        assert exit_.value.code == 2
        assert f"did you mean {meant}?" in capsys.readouterr().err
    assert main(arguments(sample, tmp_path, tmp_path / "p")) == 1
    with pytest.raises(SystemExit) as exit_:
        main(["tokenize", "--inptu", "x"])
    assert exit_.value.code == 2


def test_dry_run_writes_nothing(
    tmp_path: Path, sample: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture
) -> None:
    dry = arguments(sample, tokenizer_path, tmp_path / "p", "--dry-run")
    assert main([*dry, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["documents"] == 953
    assert 100_000 < facts["outputs"][0]["tokens"] < 200_000
    assert main(dry) == 0
    assert "tokens (int32)" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_importing_is_free_of_heavy_modules() -> None:
    code = (
        "import sys, ml_data, ml_data.cli; print('numpy' in sys.modules, 'pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_run_does_not_import_pandas(tmp_path: Path, sample: Path, tokenizer_path: Path) -> None:
    """pyarrow imports it in passing where it is installed, which takes 0.2 seconds."""
    (tmp_path / "pandas.py").write_text("import os; os.write(2, b'pandas was imported'); 1 / 0")
    lines = write_lines(tmp_path / "b.jsonl", [{"text": None}, {"text": "b"}, {"text": ""}])
    command = arguments(sample, tokenizer_path, tmp_path / "p", "--append-eod")
    command.insert(2, str(lines))
    done = subprocess.run(
        [sys.executable, "-m", "ml_data.cli", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_imports_what_it_needs(tmp_path: Path, sample: Path, tokenizer_path: Path) -> None:
    """Each of these takes 5 to 40 ms, of a second that 29 MB take."""
    command = arguments(sample, tokenizer_path, tmp_path / "p", "--append-eod")
    code = (
        "import sys; from ml_data.cli import main; assert main(sys.argv[1:]) == 0\n"
        "print([name for name in ('pyarrow.compute', 'importlib.metadata', 'multiprocessing', "
        "'subprocess', 'tokenizers', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_start_up_takes_less_than_a_second(tmp_path: Path, tokenizer_path: Path) -> None:
    """From start to a finished dataset of one row; CPU seconds, as the machine may be busy."""
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "hello"}])
    seconds = []
    for number in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = arguments(lines, tokenizer_path, tmp_path / f"p{number}", "--append-eod")
        subprocess.run([sys.executable, "-m", "ml_data.cli", *command], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 1


def flags_of(command: str) -> set[str]:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"ml_data.commands.{command}").add_arguments(parser)
    return {flag for action in parser._actions for flag in action.option_strings}


def test_every_flag_named_in_a_text_exists() -> None:
    known = {command: flags_of(command) for command in COMMANDS}
    every = set().union(*known.values())
    folder = Path(ml_data.__file__).parent
    readme = Path(__file__).parents[1] / "README.md"
    docs = Path(__file__).parents[3] / "docs"
    pages = [readme, docs / "data-format.md", docs / "tokenizers.md"]
    named = {
        (path.name, flag)
        for path in (*folder.rglob("*.py"), *pages)
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert not {(name, flag) for name, flag in named if flag not in every | {"--version"}}
    for name in ("merge", "split", "inspect", "verify"):
        text = (folder / "commands" / f"{name}.py").read_text()
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--num-tasks"}
        assert used <= known[name], name


def test_api(tmp_path: Path, sample: Path, tokenizer_path: Path) -> None:
    (manifest,) = ml_data.tokenize(sample, tokenizer_path, tmp_path / "p", append_eod=True)
    assert manifest["num_tokens"] == 147_020
    data = ml_data.IndexedDataset(tmp_path / "p_text_document")
    assert data[0].base is not None
    assert not data[0].flags.writeable
    with pytest.raises(AttributeError, match="nothing"):
        ml_data.nothing  # noqa: B018


def test_the_api_and_the_command_have_every_option(
    monkeypatch: pytest.MonkeyPatch, sample: Path
) -> None:
    from ml_data import api
    from ml_data.commands import tokenize as command
    from ml_data.pipeline import run
    from ml_data.pipeline.options import TokenizeOptions

    signature = inspect.signature(ml_data.tokenize).parameters
    flags = argparse.ArgumentParser()
    command.add_arguments(flags)
    for field in dataclasses.fields(TokenizeOptions):
        if field.default is not dataclasses.MISSING:
            assert signature[field.name].default == field.default, field.name
            default = flags.get_default(field.name)
            assert (tuple(default) if isinstance(default, list) else default) == field.default
    changed = {
        "json_keys": ("a", "b"), "append_eod": True, "eod_id": 5, "add_bos": True,
        "parse_special_tokens": True,
        "on_error": "stop", "max_document_tokens": 7, "tokenizer_type": "x", "engine": "fast",
        "workers": 3, "executor": "ray", "num_tasks": 5, "task_index": 2, "overwrite": True,
        "input_checksums": "none", "batch_bytes": 11, "shard_bytes": 12, "log_interval": 13,
    }  # fmt: skip
    seen: list[TokenizeOptions] = []
    take = lambda options, **_: seen.append(options) or []  # noqa: E731
    monkeypatch.setattr(api, "run_tokenize", take)
    monkeypatch.setattr(run, "tokenize", take)
    ml_data.tokenize(sample, "t", "p", **changed)
    words = []
    for name, value in changed.items():
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else list(value) if isinstance(value, tuple) else [str(value)]
    assert main(arguments(sample, Path("t"), Path("p"), *words)) == 0
    ml_data.tokenize(sample, "t", "p", template="x", append_eod=True, eod_token="</s>")
    words = arguments(sample, Path("t"), Path("p"), "--template", "x", "--workers", "4")
    assert main([*words, "--append-eod", "--eod-token", "</s>"]) == 0
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert {name: getattr(seen[0], name) for name in changed} == changed


def test_a_script_without_a_main_guard_may_use_workers(
    tmp_path: Path, sample: Path, tokenizer_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import ml_data\n"
        f"ml_data.tokenize({str(sample)!r}, {str(tokenizer_path)!r}, {str(tmp_path / 'p')!r},"
        " workers=2, engine='sentencepiece', batch_bytes=100_000)\nprint('once')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "once\n"


def test_progress_on_a_terminal_and_in_a_log(
    tmp_path: Path, sample: Path, tokenizer_path: Path
) -> None:
    more = ["--log-interval", "100", "--batch-bytes", "50000"]
    command = [sys.executable, "-m", "ml_data.cli"]
    log = subprocess.run(
        [*command, *arguments(sample, tokenizer_path, tmp_path / "log", *more)],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert re.search(
        r"^Processed 953 documents \(\d+ docs/s, [\d.]+ MB/s, 0:00 left\)\.$", log, re.M
    )
    near, far = pty.openpty()
    with subprocess.Popen(
        [*command, *arguments(sample, tokenizer_path, tmp_path / "terminal", *more)],
        stdout=subprocess.DEVNULL,
        stderr=far,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as run:
        os.close(far)
        shown = b""
        while True:
            try:
                block = os.read(near, 4096)
            except OSError:  # the other side is closed
                break
            if not block:
                break
            shown += block
    os.close(near)
    assert run.returncode == 0
    assert "100%" in shown.decode()
    assert "953 documents, " in shown.decode()


def test_what_is_drawn_is_imported_when_it_is_drawn() -> None:
    code = "import sys, ml_data.cli, ml_data.commands.tokenize, ml_data.terminal; "
    code += "sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_no_flag_given_twice_loses_a_value(
    command: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every flag that takes values keeps those of both mentions, or is refused with its name."""
    module = importlib.import_module(f"ml_data.commands.{command}")
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr(module, "run", lambda args: seen.append(args) or 0)
    plain = argparse.ArgumentParser()
    module.add_arguments(plain)
    required = ["p"] * any(not action.option_strings for action in plain._actions)
    for action in plain._actions:
        if action.required and action.option_strings:
            required += [action.option_strings[0], "x"]
    for action in plain._actions:
        if not action.option_strings or action.nargs == 0:
            continue
        flag = action.option_strings[-1]
        first, second = (action.choices or ((3, 4) if action.type else ("a", "b")))[:2]
        words = [command, *required]
        if action.required:
            at = words.index(action.option_strings[0])
            del words[at : at + 2]
        words += [flag, str(first), f"{action.option_strings[0]}={second}"]
        if action.nargs == "+":
            assert main(words) == 0
            assert getattr(seen[-1], action.dest) == [first, second]
        else:
            with pytest.raises(SystemExit) as exit_:
                main(words)
            assert exit_.value.code == 2
            assert "is given a second time" in capsys.readouterr().err


def test_both_mentions_of_input_are_read(tmp_path: Path, tokenizer_path: Path) -> None:
    lines = [write_lines(tmp_path / f"{n}.jsonl", [{"text": n}] * 3) for n in ("a", "b")]
    command = arguments(lines[0], tokenizer_path, tmp_path / "p", "--input", str(lines[1]))
    assert main(command) == 0
    assert ml_data.IndexedDataset(tmp_path / "p_text_document").num_documents == 6


def test_python_m_ml_data_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ml_data", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"ml-data {ml_data.__version__}\n"


def test_megatrons_name_for_the_tokenizer(
    tmp_path: Path, sample: Path, tokenizer_path: Path
) -> None:
    prefix = tmp_path / "p"
    command = arguments(sample, tokenizer_path, prefix)
    command[command.index("--tokenizer-name-or-path")] = "--tokenizer-model"
    assert main(command) == 0
    for more in ("verify", "inspect"):
        words = [f"{prefix}_text_document", "--tokenizer-model", str(tokenizer_path)]
        assert main([more, *words]) == 0


def test_a_kept_output_whose_manifest_states_no_time(
    tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture
) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [{"text": "some words"}])
    command = arguments(lines, tokenizer_path, tmp_path / "p")
    assert main(command) == 0
    path = tmp_path / "p_text_document.json"
    values = json.loads(path.read_bytes())
    path.write_text(json.dumps({**values, "run": {**values["run"], "seconds": "soon"}}))
    capsys.readouterr()
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("1 documents (0 empty), 2 tokens (int32), dropped 0\n")
    assert "the output is complete already" in shown.err
