"""MindSpeed and MegatronAdaptor, as stand-ins on disk that note when they are imported.

The stand-ins have what the libraries document: names of modules, what each imports, and that
MindSpeed parses the command line when it is imported. What the libraries do to megatron-core is
not tested here.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ml_models.errors import PlatformError
from ml_models.platforms import ascend_adaptors

NOTE = "import ascend_notes; ascend_notes.imported.append(__name__)\n"
PARSES = (
    "import argparse, ascend_notes\n"
    "parser = argparse.ArgumentParser()\n"
    "parser.add_argument('--use-flash-attn', action='store_true')\n"
    "ascend_notes.arguments.append(parser.parse_known_args())\n"
)
STACKS: dict[str, dict[str, str]] = {
    "mindspeed": {
        "mindspeed/__init__.py": "",
        "mindspeed/megatron_adaptor.py": f"{PARSES}import megatron.training\n{NOTE}",
    },
    # From 0.17 on MindSpeed's own __init__ imports MegatronAdaptor.
    "mindspeed layer": {
        "mindspeed/__init__.py": "import megatron_adaptor  # noqa: F401\n",
        "mindspeed/megatron_adaptor.py": PARSES + NOTE,
    },
    "adaptor": {"megatron_adaptor/__init__.py": "import transformer_engine\n" + NOTE},
    "te-npu": {"transformer_engine/__init__.py": NOTE},
    "nvidia te": {"transformer_engine/__init__.py": NOTE, "transformer_engine_torch.py": ""},
    "source tree": {"megatron/training/__init__.py": ""},
    "requirements": {"six.py": "", "scipy/__init__.py": ""},
}
COMPLETE = ("mindspeed", "source tree", "requirements")
Install = Callable[..., ModuleType]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """Puts stand-ins on the path; returns the module that notes what was imported."""
    notes = ModuleType("ascend_notes")
    notes.imported, notes.arguments = [], []  # type: ignore[attr-defined]
    before = dict(sys.modules)
    sys.modules["ascend_notes"] = notes
    # This process may have imported megatron-core in another test.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("megatron", "scipy")]:
        del sys.modules[name]
    monkeypatch.setattr(ascend_adaptors, "_line_of_mindspeed", lambda: None)

    def installed(*stacks: str) -> ModuleType:
        for stack in stacks:
            for name, text in STACKS[stack].items():
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="ascii")
        monkeypatch.syspath_prepend(tmp_path)
        return notes

    yield installed
    sys.modules.clear()
    sys.modules.update(before)


def refused(line: str) -> str:
    with pytest.raises(PlatformError) as caught:
        ascend_adaptors.load(line)
    said = str(caught.value)
    assert "\n" not in said and said.count(". ") <= 5, "a sentence and its fix"
    return said


def test_without_an_adaptor_there_is_nothing_to_load(install: Install) -> None:
    install()
    assert ascend_adaptors.load("0.16") == []


@pytest.mark.parametrize("line", ["0.12", "0.16"])
def test_mindspeed_is_loaded_once_without_our_command_line(
    install: Install, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    notes = install(*COMPLETE)
    # With these words MindSpeed would print its help and end the process.
    words = ["ml-train", "pretrain", "-h", "--use-flash-attn"]
    monkeypatch.setattr(sys, "argv", words)
    for _ in range(2):
        assert ascend_adaptors.load(line) == ["mindspeed.megatron_adaptor"]
    assert notes.imported == ["mindspeed.megatron_adaptor"]
    assert notes.arguments[0][0].use_flash_attn is False
    assert sys.argv is words


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("source tree", "imports megatron.training, which cannot be found"),
        ("requirements", "six: run "),
    ],
)
def test_mindspeed_lacks_what_its_wheel_does_not_bring(
    install: Install, monkeypatch: pytest.MonkeyPatch, left_out: str, said: str
) -> None:
    install(*(stack for stack in COMPLETE if stack != left_out))
    real = ascend_adaptors._is_there
    absent = {name.partition("/")[0].removesuffix(".py") for name in STACKS[left_out]}
    if left_out == "requirements":  # these may be installed here
        monkeypatch.setattr(
            ascend_adaptors, "_is_there", lambda name: name not in absent and real(name)
        )
    elif real("megatron.training"):
        pytest.skip("the wheel of this line of megatron-core brings megatron.training")
    text = refused("0.12")
    assert said in text and "docs/ascend.md" in text


@pytest.mark.parametrize("line", ["0.17", "0.18"])
def test_megatron_adaptor_is_one_import_and_brings_te_npu(install: Install, line: str) -> None:
    notes = install("adaptor", "te-npu")
    assert ascend_adaptors.load(line) == ["megatron_adaptor"]
    assert notes.imported == ["transformer_engine", "megatron_adaptor"]


def test_mindspeed_for_newer_lines_comes_after_megatron_adaptor(install: Install) -> None:
    notes = install("adaptor", "te-npu", "mindspeed layer", "source tree", "requirements")
    assert ascend_adaptors.load("0.18") == ["megatron_adaptor", "mindspeed.megatron_adaptor"]
    assert notes.imported[1:] == ["megatron_adaptor", "mindspeed.megatron_adaptor"]


@pytest.mark.parametrize(
    ("stacks", "line", "said"),
    [
        (COMPLETE, "0.19", "installed megatron-core is 0.19. Install a megatron-core that Mind"),
        (COMPLETE, "0.17", "Install a megatron-core that MindSpeed serves (0.12 with 26.1.0_core"),
        (("adaptor", "te-npu"), "0.16", "that MegatronAdaptor serves (0.17 with core_r0.17.0, 0.1"),
        (("adaptor",), "0.18", "MegatronAdaptor imports transformer_engine, which cannot be foun"),
        (("te-npu",), "0.18", "TransformerEngineNPU is installed without MegatronAdaptor"),
        (("adaptor", "nvidia te"), "0.18", "NVIDIA's TransformerEngine is installed"),
        (("nvidia te",), "0.16", "NVIDIA's TransformerEngine is installed"),
        (("adaptor", "te-npu", *COMPLETE), "0.18", "replace the same functions of megatron-core"),
        (("mindspeed layer",), "0.18", "is a branch that imports MegatronAdaptor, which is not i"),
    ],
)
def test_what_contradicts_is_refused_before_anything_is_imported(
    install: Install, stacks: tuple[str, ...], line: str, said: str
) -> None:
    notes = install(*stacks)
    assert said in refused(line)
    assert notes.imported == []


def test_a_mindspeed_for_another_line_is_named(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(*COMPLETE)
    monkeypatch.setattr(ascend_adaptors, "_line_of_mindspeed", lambda: "0.12")
    text = refused("0.16")
    assert "MindSpeed's branch for megatron-core 0.12 is installed, but" in text
    assert "Install its branch core_r0.16.0, or uninstall" in text


@pytest.mark.parametrize(("stacks", "line"), [(COMPLETE, "0.12"), (("adaptor", "te-npu"), "0.18")])
def test_an_adaptor_comes_before_megatron_core(
    install: Install, monkeypatch: pytest.MonkeyPatch, stacks: tuple[str, ...], line: str
) -> None:
    notes = install(*stacks)
    monkeypatch.setitem(sys.modules, "megatron.core", ModuleType("megatron.core"))
    assert "imported before the npu platform was applied" in refused(line)
    assert notes.imported == []


def test_an_adaptor_that_cannot_be_imported_is_one_sentence(
    install: Install, tmp_path: Path
) -> None:
    install("adaptor", "te-npu")
    (tmp_path / "megatron_adaptor/__init__.py").write_text("from torch import no_such_name\n")
    assert "megatron_adaptor cannot be imported: cannot import name" in refused("0.18")
