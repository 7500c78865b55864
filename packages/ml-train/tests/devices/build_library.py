"""Compiles a simulated device, once per version of its sources, torch and Python.

`python build_library.py npu` prints the folder of the library. The first call takes 25 to 60 s.
Later ones find the library under the repository's .nox, or in the temporary folder where the
repository cannot be written.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch
from torch.utils import cpp_extension

SOURCES = Path(__file__).parent / "simulated_device"
REPOSITORY = Path(__file__).parents[4]
OLDEST_TORCH = (2, 13)
"""The C++ interface of devices differs between releases of torch, and this one was tested."""
LIMIT_SECONDS = 400
"""A machine that runs other tests beside the compiler takes several times as long."""


class CannotBuildError(Exception):
    """This machine cannot compile the device; the text says why."""


def library_folder(device: str) -> Path:
    """The folder that holds the compiled module simulated_npu, or simulated_cuda.

    Raises CannotBuildError.
    """
    if device == "cuda" and torch.version.cuda is not None:
        raise CannotBuildError("torch is a CUDA build, which brings its own CUDA device")
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise CannotBuildError("no C++ compiler (g++) is in PATH")
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise CannotBuildError(
            f"torch is {torch.__version__}; the device is written for {OLDEST_TORCH[0]}."
            f"{OLDEST_TORCH[1]} and newer"
        )
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").is_file():
        raise CannotBuildError(f"{headers} has no Python.h: Python's development files are missing")
    name = f"simulated_{device}"
    folder = _cache() / _version(compiler) / device
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    # Sessions of tests that run side by side want the same library: the first compiles it.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.is_file():
            _compile(compiler, library, headers, name)
    return folder


def _cache() -> Path:
    nox = REPOSITORY / ".nox"
    parent = nox if nox.is_dir() else REPOSITORY
    if os.access(parent, os.W_OK):
        return nox / "simulated_devices"
    return Path(tempfile.gettempdir()) / f"ml-simulated-devices-{os.getuid()}"


def _version(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    content = hashlib.sha256(f"{torch.__version__} {sys.version}".encode() + version)
    for source in sorted(SOURCES.iterdir()):
        content.update(source.read_bytes())
    return content.hexdigest()[:16]


def _compile(compiler: str, library: Path, headers: Path, name: str) -> None:
    unfinished = library.with_suffix(".unfinished")
    libraries = Path(torch.__file__).parent / "lib"
    command = [
        *(compiler, "-shared", "-fPIC", "-std=c++20", "-O1", "-g0", "-fvisibility=hidden"),
        *(
            f"-DTORCH_EXTENSION_NAME={name}",
            f"-D{name.upper()}",
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        ),
        *(f"-isystem{path}" for path in (*cpp_extension.include_paths(), headers)),
        *(str(SOURCES / "library.cpp"), "-o", str(unfinished), f"-L{libraries}"),
        *("-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[:5000]}")
    unfinished.rename(library)


if __name__ == "__main__":
    print(library_folder(sys.argv[1]))
