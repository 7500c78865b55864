"""Faults of settings, layout, versions and kernels: all of them are told, before anything runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rehearsed import LAYOUT, MODEL, cluster, findings, one_error, words_of

from ml_models.megatron_core import lines
from ml_train.cli import main
from ml_train.rehearsal import versions
from ml_train.rehearsal.versions import packages_of

NOTHING = ("--device", "h100", "--no-toy-run")


def rehearsed(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["rehearse", *words])
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out + captured.err


@pytest.mark.parametrize(
    ("more", "texts"),
    [
        (("--tensor-model-parallel-size", "3"), ("--tensor-model-parallel-size is 3", "Nearest")),
        (("--pipeline-model-parallel-size", "3"), ("--pipeline-model-parallel-size", "3")),
        (("--expert-model-parallel-size", "4"), ("--expert-model-parallel-size is 4",)),
        (("--global-batch-size", "7"), ("--global-batch-size is 7", "a multiple of")),
        (("--seq-length", "15"), ("--seq-length is 15", "Take 16")),
        (("--num-layers-per-virtual-pipeline-stage", "3"), ("it divides the 1 layers",)),
        (("--decoder-first-pipeline-num-layers", "2"), ("Uneven stages",)),
        (("--distributed-backend", "gloo"), ("the platform cuda communicates through nccl",)),
        (("--attention-backend", "flash"), ("no form of attention can serve",)),
    ],
)
def test_a_layout_that_the_cluster_refuses(
    tmp_path: Path, more: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    given = {word for word in more if word.startswith("--")}
    words = words_of(tmp_path)
    for flag in given & set(words):
        at = words.index(flag)
        del words[at : at + 2]
    errors = [item for item in findings([*words, *more], "layouts") if item.severity == "error"]
    told = [f"{item.what} {item.fix}" for item in errors]
    assert any(all(text in line for text in texts) for line in told), told


def test_a_world_that_no_layout_fills_names_worlds_that_have_some(tmp_path: Path) -> None:
    said = findings(words_of(tmp_path), "layouts", where=cluster(per_node=7))
    assert any("There are 7 processes" in item.what for item in said)
    assert all("processes have some" in item.fix for item in said)


def test_more_processes_than_a_node_has_devices(tmp_path: Path) -> None:
    one_error(findings(words_of(tmp_path), "layouts", where=cluster(per_node=16)), "has 8 devices")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--train-iters", "2"), "never reaches --lr"),
        (("--train-iters", "1"), "never reaches --lr"),
        (("--train-iters", "0"), "--train-iters is 0"),
    ],
)
def test_a_run_that_ends_too_early(tmp_path: Path, more: tuple[str, ...], text: str) -> None:
    words = words_of(tmp_path)
    at = words.index("--train-iters")
    del words[at : at + 2]
    one_error(findings([*words, *more], "settings"), text)


def test_ranks_that_the_job_does_not_have_cannot_be_profiled(tmp_path: Path) -> None:
    words = words_of(tmp_path, "--profile", "--profile-ranks", "0", "8")
    one_error(findings(words, "layouts"), "--profile-ranks 8", "ranks are 0 to 7")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("[training\n", "is not TOML"),
        ("[training]\ntrain_itres = 3\n", "Did you mean train_iters?"),
        ("[training]\ntrain_iters = 'many'\n", "is not of type int"),
    ],
)
def test_a_settings_file_that_cannot_be_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    path = tmp_path / "run.toml"
    if text is not None:
        path.write_text(text)
    code, told = rehearsed(capfd, *NOTHING, "--config", str(path))
    assert code == 1 and said in told


def test_a_setting_without_effect_is_a_warning(tmp_path: Path) -> None:
    said = findings(words_of(tmp_path, "--profile-step-start", "3"), "settings")
    assert [item.severity for item in said] == ["warning"]


def test_every_fault_is_told_and_not_the_first_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two sections, a rule over sections, a layout, data and a folder, in one command."""
    (tmp_path / "file").write_text("no folder")
    words = [*MODEL, *LAYOUT, "--train-iters", "10", "--eval-iters", "1", "--overlap-param-gather"]
    words += ["--global-batch-size", "6", "--save", str(tmp_path / "file" / "save")]
    words += ["--data-path", str(tmp_path / "absent")]
    words = ["num_layers=5" if word == "num_layers=2" else word for word in words]
    code, said = rehearsed(capfd, *NOTHING, *words)
    assert code == 1
    for text in (
        "--overlap-param-gather gathers the distributed optimizer's shards",
        "--overlap-param-gather needs --overlap-grad-reduce",
        "it divides the model's 5 layers",
        "absent.idx does not exist",
        "is a file",
    ):
        assert text in said
    assert "left out memory of every kind of rank" in said


def test_sections_that_break_their_rules_are_all_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--lr", "1e-4", "--min-lr", "1e-3", "--split", "1,2,3,4", "--mock-data"]
    code, said = rehearsed(capfd, *NOTHING, *MODEL, *words, "--save", str(tmp_path / "save"))
    assert code == 1
    assert "--min-lr 0.001 is above --lr" in said and "--split is '1,2,3,4'" in said
    assert "data: not looked at, as the settings of data are faulty" in said
    assert "ok       layout" in said


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        ("grok1-tny", "Did you mean grok1-tiny?"),
        ("absent_module:make", "cannot be loaded"),
        ("broken_recipes:absent", "cannot be loaded"),
        ("broken_recipes:raises", "cannot be built: ZeroDivisionError"),
        ("broken_recipes:number", "returned int"),
        ("broken_recipes:rule", "--min-lr 1.0 is above --lr"),
        ("broken_recipes:argument", "cannot be built: TypeError"),
        ("broken_syntax:make", "cannot be loaded"),
    ],
)
def test_a_recipe_that_cannot_be_built(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recipe: str,
    text: str,
) -> None:
    (tmp_path / "broken_recipes.py").write_text(
        "from ml_train.config.run import RunConfig\n"
        "from ml_train.config.sections.optimizer import OptimizerSection\n"
        "def raises(): return 1 / 0\n"
        "def number(): return 3\n"
        "def argument(): return RunConfig(optimiser=None)\n"
        "def rule(): return RunConfig(optimizer=OptimizerSection(lr=0.5, min_lr=1.0))\n"
    )
    (tmp_path / "broken_syntax.py").write_text("def make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("broken_recipes", "broken_syntax"):
        sys.modules.pop(name, None)
    code, said = rehearsed(capfd, *NOTHING, "--recipe", recipe)
    assert code == 1 and text in said


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--device", "h100", "--trian-iters", "3"), "--train-iters"),
        (("--device", "h1000"), "No device is called 'h1000'"),
        (("--device", "h100", "--nnodes", "0"), "--nnodes"),
        (("--device", "h100", "--toy-processes", "0"), "--toy-processes"),
        ((), "--device"),
    ],
)
def test_bad_usage_is_a_sentence(
    capfd: pytest.CaptureFixture[str], words: tuple[str, ...], text: str
) -> None:
    code, said = rehearsed(capfd, "--recipe", "grok1-tiny", *words)
    assert code == 2 and text in said


def test_the_json_document_has_the_faults(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*words_of(tmp_path), "--recipe", "grok1-tiny"]
    at = words.index("--global-batch-size")
    words[at + 1] = "7"
    assert main(["rehearse", *NOTHING, "--json", *words]) == 1
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == 1 and document["sound"] is False and document["layout"] is None
    errors = [item for item in document["findings"] if item["severity"] == "error"]
    assert {item["subject"] for item in errors} == {"layout"}
    assert set(errors[0]) == {"severity", "subject", "what", "fix"}
    assert document["left_out"]


GOOD = {"ml-train": "1.0.0", "ml-models": "1.0.0", "ml-data": "1.0.0", "numpy": "2.0.0"}


def freeze(path: Path, **versions: str) -> Path:
    """A file as `pip freeze` prints it."""
    packages = {**GOOD, **{name.replace("_", "-"): version for name, version in versions.items()}}
    path.write_text("\n".join(f"{name}=={version}" for name, version in packages.items()))
    return path


@pytest.mark.parametrize(
    ("device", "packages", "text"),
    [
        ("h100", {"torch": "2.13.0", "megatron_core": "0.14.0"}, "supports the lines 0.12"),
        ("h100", {"torch": "2.13.0"}, "lists no megatron-core"),
        ("h100", {"torch": "2.4.0", "megatron_core": "0.16.1"}, "needs torch>=2.6"),
        (
            "h100",
            {"torch": "2.13.0", "megatron_core": "0.16.1", "ml_models": "0.9"},
            "needs ml-models>=1.0, and 0.9",
        ),
        ("ascend-910b", {"torch": "2.12.0", "megatron_core": "0.16.1"}, "lists no torch-npu"),
        (
            "ascend-910b",
            {"torch": "2.9.0", "torch_npu": "2.7.1.post4", "megatron_core": "0.16.1"},
            "the nearest combination that is known to work on npu",
        ),
    ],
)
def test_versions_of_the_cluster_that_do_not_go_together(
    tmp_path: Path, device: str, packages: dict[str, str], text: str
) -> None:
    listed = freeze(tmp_path / "packages.txt", **packages)
    where = cluster(device, package_lists=(listed,))
    errors = [
        f"{item.what} {item.fix}"
        for item in findings(words_of(tmp_path), "versions", where=where)
        if item.severity == "error"
    ]
    assert any(text in line for line in errors), errors


def test_nodes_with_different_versions(tmp_path: Path) -> None:
    packages = {"torch": "2.13.0", "megatron_core": "0.16.1"}
    lists = (
        freeze(tmp_path / "node1.txt", **packages),
        freeze(tmp_path / "node2.txt", **{**packages, "torch": "2.12.0"}),
    )
    said = findings(words_of(tmp_path), "versions", where=cluster(package_lists=lists))
    one_error(said, "different versions of torch: 2.13.0 in node1.txt; 2.12.0 in node2.txt")
    same = cluster(package_lists=lists[:1])
    said = findings(words_of(tmp_path), "versions", where=same)
    assert [item for item in said if item.severity == "error"] == []


def test_packages_of_this_installation_that_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = versions._installed
    monkeypatch.setattr(
        versions, "_installed", lambda name: "0.9" if name == "ml-models" else installed(name)
    )
    errors = [item for item in findings(words_of(tmp_path), "versions") if item.severity == "error"]
    assert [item.what for item in errors] == [
        "this installation: ml-train 1.0.0 needs ml-models>=1.0, and 0.9 is there."
    ]


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    where = cluster(package_lists=(tmp_path / "absent.txt",))
    one_error(findings(words_of(tmp_path), "versions", where=where), "absent.txt")


def test_the_line_of_this_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a line that serves nothing can be rehearsed."""
    monkeypatch.setattr(lines, "installed_version", lambda: "0.15.3")
    code, said = rehearsed(capfd, *NOTHING, *words_of(tmp_path))
    assert code == 1
    assert "megatron-core 0.15.3 is installed; ml-models supports the lines" in said


def test_what_pip_freeze_prints_is_read() -> None:
    text = (
        "torch==2.13.0+cpu\n"
        "# Editable install with no version control (ml-train==1.0.0)\n"
        "-e /source/ml-train\n"
        "megatron_core @ file:///wheels/megatron_core-0.16.1-py3-none-any.whl\n"
    )
    assert packages_of(text) == {
        "torch": "2.13.0+cpu",
        "ml-train": "1.0.0",
        "megatron-core": "0.16.1",
    }
