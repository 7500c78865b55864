"""Which megatron-core is accepted, and what is said where it is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from ml_models.errors import RequirementError
from ml_models.megatron_core import lines
from ml_models.megatron_core.lines import Lines
from ml_models.platforms import get_platform


def test_ranges_compare_numbers_and_include_their_ends() -> None:
    assert "0.16" in Lines("0.9", "0.16")
    assert "0.9" not in Lines("0.12")
    assert "0.17" not in Lines(last="0.16")
    assert "1.0" in Lines("0.19")
    assert "0.1" in Lines()


def test_the_installed_line_is_read_without_an_import() -> None:
    code = (
        "import sys; from ml_models.megatron_core import lines; print(lines.installed_line());"
        "assert not {'torch', 'megatron.core'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == lines.installed_line() == lines.CORE_LINE, done.stderr


def test_a_source_tree_on_the_path_goes_before_the_installed_wheel(tmp_path: Path) -> None:
    folder = tmp_path / "megatron" / "core"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')", encoding="ascii")
    facts = "MAJOR = 0\nMINOR = 14\nPATCH = 7\nPRE_RELEASE = ''\n"
    (folder / "package_info.py").write_text(facts, encoding="ascii")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
    code += "from ml_models.megatron_core import lines; "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(lines.installed_version())"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "0.14.7", done.stderr


def test_a_source_tree_is_not_held_to_the_python_of_the_wheel(tmp_path: Path) -> None:
    # The wheel of 0.17 wants Python 3.12; Ascend's stacks use the source tree on 3.10.
    folder = tmp_path / "megatron" / "core"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("", encoding="ascii")
    facts = "MAJOR = 0\nMINOR = 17\nPATCH = 1\nPRE_RELEASE = ''\n"
    (folder / "package_info.py").write_text(facts, encoding="ascii")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.version_info = (3, 10, 4); "
    code += "from ml_models.megatron_core import lines; lines.require_supported(); "
    code += "print(lines.installed_version(), lines.is_source_tree())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "0.17.1 True", done.stderr


@pytest.mark.parametrize("version", ["0.11.0", "0.14.0", "0.9.2"])
def test_other_lines_are_refused_with_the_command(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "installed_version", lambda: version)
    with pytest.raises(RequirementError) as caught:
        get_platform("cpu")
    said = str(caught.value)
    assert f"megatron-core {version} is installed; ml-models supports the lines 0.12, 0.16" in said
    assert said.endswith(f"pip install megatron-core=={lines.default_release()}")


def test_a_missing_megatron_core_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "find_spec", lambda name: None)

    def absent(name: str) -> str:
        raise lines.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(lines.metadata, "version", absent)
    lines.installed_version.cache_clear()
    try:
        with pytest.raises(RequirementError, match=r"megatron-core is not installed\. Run: .*pip"):
            get_platform("cpu")
    finally:
        lines.installed_version.cache_clear()


def test_a_python_too_old_for_the_line_is_told_the_release_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "installed_version", lambda: "0.19.2")
    monkeypatch.setattr(sys, "version_info", (3, 11, 4, "final", 0))
    with pytest.raises(RequirementError, match=r"0\.19\.2 needs Python 3\.12 or newer"):
        lines.require_supported()
    assert lines.default_release((3, 10)) == lines.default_release((3, 11)) == "0.16.1"
    assert lines.default_release((3, 12)) == lines.default_release((3, 13)) == "0.19.2"


def test_every_supported_line_has_a_release_of_its_own() -> None:
    for line in lines.SUPPORTED:
        assert line.version.startswith(f"{line.name}.")
        assert lines.is_supported(line.name)
        assert not lines.is_newer(line.name)
    assert lines.is_newer("0.20")
    assert lines.is_newer("1.0")
