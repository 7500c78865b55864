"""Say how much pip is about to download for torch, the largest requirement, before it starts.

Usage: python tools/announce_download.py CONSTRAINTS

pip resolves torch without downloading it (--dry-run). The index's default build for Linux brings
NVIDIA's libraries along, whether or not the machine has a GPU. The figures are torch 2.13.0's.
"""

from __future__ import annotations

import json
import subprocess
import sys

CUDA_BUILD = (
    "about 3 GB to download and 6 GB on disk: torch's CUDA build, which is what the package "
    "index gives on Linux. It trains on a CPU as well. For the CPU build (about 200 MB), stop here "
    "and see 'torch on a CPU' in README.md."
)
OTHER_BUILD = "about 200 MB of torch and 200 MB of other packages to download, 2 GB on disk."


def main() -> int:
    """Print one line; never fail, as the installation itself will say what is wrong."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]
    command += ["--disable-pip-version-check", "-c", sys.argv[1], "torch"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        names = {row["metadata"]["name"] for row in json.loads(answer.stdout)["install"]}
    except (ValueError, KeyError):
        return 0
    if "torch" not in names:
        print("torch is already installed here.")
    else:
        print(CUDA_BUILD if any(name.startswith("nvidia-") for name in names) else OTHER_BUILD)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
