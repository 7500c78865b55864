"""What a manifest states about the libraries that were installed."""

from importlib import metadata
from pathlib import Path

import pytest

from ml_data.pipeline import manifest


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    manifest._installed_version.cache_clear()


def test_versions_are_those_of_the_distributions() -> None:
    stated = manifest.versions("tiktoken")
    assert {"ml-data", "python", "numpy", "pyarrow", "sentencepiece", "tokenizers"} <= set(stated)
    for name in set(stated) - {"ml-data", "python"}:
        assert stated[name] == metadata.version(name)


def test_the_first_folder_of_the_path_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, version in (("first", "9.1"), ("second", "9.2")):
        (tmp_path / folder / f"numpy-{version}.dist-info").mkdir(parents=True)
    (tmp_path / "first" / "numpy_extras-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "second")
    monkeypatch.syspath_prepend(tmp_path / "first")
    monkeypatch.syspath_prepend(tmp_path / "missing")
    assert manifest.versions()["numpy"] == "9.1"


def test_the_rest_of_a_failed_installation_does_not_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy-9.1.dist-info").mkdir()
    whole = tmp_path / "numpy-9.2.dist-info"
    whole.mkdir()
    (whole / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert manifest.versions()["numpy"] == metadata.version("numpy")


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_OPTIONAL", ("no_such_library",))
    assert "no_such_library" not in manifest.versions("no_such_library")
