"""What is said where torch is missing, broken, or built without CUDA."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml_models.errors import PlatformError, RequirementError
from ml_models.megatron_core import requirements
from ml_models.platforms import get_platform


def test_a_missing_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(RequirementError, match=r"torch is not installed\. Run: .* install torch$"):
        get_platform("cpu")


def test_a_torch_whose_libraries_are_missing_is_told_what_brings_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(requirements.importlib, "import_module", broken)
    monkeypatch.setattr(requirements, "torch_version", lambda: "2.13.0")
    needs = ["filelock", 'nvidia-cudnn-cu13==9.2; platform_system == "Linux"', "cuda-toolkit[a]==1"]
    monkeypatch.setattr(requirements.metadata, "requires", lambda name: needs)
    version = requirements.metadata.version

    def installed(name: str) -> str:
        if name.startswith(("nvidia-", "cuda-")):
            raise requirements.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(requirements.metadata, "version", installed)
    monkeypatch.setattr(requirements.platform, "system", lambda: "Linux")
    with pytest.raises(RequirementError) as caught:
        requirements.require_torch()
    said = str(caught.value)
    assert "torch cannot be imported: libcudart.so.13" in said
    assert "It lacks nvidia-cudnn-cu13, cuda-toolkit." in said
    assert said.endswith("pip install --force-reinstall torch==2.13.0")


def test_cuda_on_a_cpu_build_is_refused_before_torch_is_imported() -> None:
    code = (
        "import sys; from ml_models import platforms\n"
        "from ml_models.megatron_core import requirements\n"
        "requirements.torch_version = lambda: '2.13.0+cpu'\n"
        "try:\n    platforms.get_platform('cuda')\n"
        "except platforms.PlatformError as error:\n    print(error, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "The platform cuda has no device here: torch 2.13.0+cpu was built without" in done.stdout
    assert "--force-reinstall torch==2.13.0." in done.stdout
    assert done.stdout.strip().endswith("False"), done.stdout + done.stderr


def test_cuda_and_npu_say_why_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(requirements, "torch_version", lambda: "2.13.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(PlatformError, match="no GPU or no driver of it; nvidia-smi"):
        get_platform("cuda")
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    with pytest.raises(PlatformError, match="CANN libraries are missing"):
        get_platform("npu")


def test_a_command_that_cannot_import_torch_says_what_brings_its_libraries(tmp_path: Path) -> None:
    broken = tmp_path / "torch"
    broken.mkdir()
    text = "raise OSError('libcudart.so.13: cannot open shared object file')"
    (broken / "__init__.py").write_text(text, encoding="ascii")
    for words in (
        ["convert", "--from", "xai", "--to", "huggingface", "--input", ".", "--output", "o"],
        ["compare", "--weights", ".", "--reference", "r"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ml_models.cli", *words],
            capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert "torch cannot be imported: libcudart.so.13" in done.stderr
        assert "pip install --force-reinstall torch" in done.stderr


def test_no_check_imports_anything_heavy() -> None:
    code = (
        "import sys; from ml_models.megatron_core import requirements; requirements.require_core();"
        "assert not {'torch', 'megatron.core', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
