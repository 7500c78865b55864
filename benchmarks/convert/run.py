"""Seconds and memory of converting xAI's release, against a plain script in the same run.

    pip install ml-dtypes
    python benchmarks/convert/run.py [--hidden 6144] [--layers 1] [--rounds 3] [--folder DIR]

Both write the same tensors in bfloat16, alternating; ml-models also checks every pickle, sums every
tensor and file (sha256) and can be killed and resumed. True width needs 40 GB of disk. Prints
seconds, peak memory and ratios; the last line says whether both wrote the same numbers.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def timed(command: list[str]) -> tuple[float, float]:
    """(seconds, peak resident GB) of one command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9


def same_numbers(folder: Path, reference: Path) -> bool:
    """Whether `reference` has every tensor of `folder`, with the same bytes."""
    import torch
    from safetensors import safe_open

    other = {}
    for path in reference.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            other.update(dict.fromkeys(file.keys(), path))
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                match = name.replace(".scale", ".weight")
                with safe_open(other.pop(match), "pt") as their_file:
                    if not torch.equal(file.get_tensor(name), their_file.get_tensor(match)):
                        return False
    return not other


def main() -> None:
    """Alternate, then print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=6144)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        work = Path(folder)
        release = work / "release"
        sizes = ["--hidden", str(args.hidden), "--layers", str(args.layers)]
        subprocess.run(
            [sys.executable, str(HERE / "make_release.py"), str(release), *sizes], check=True
        )
        inputs = ["--input", str(release / "ckpt-0"), "--config", str(release / "model.json")]
        kinds = ["--from", "xai", "--to", "huggingface", "--dtype", "bf16"]
        converter = [
            "-m",
            "ml_models.cli",
            "convert",
            *kinds,
            *inputs,
            "--output",
            str(work / "ml-models"),
        ]
        plain = [str(HERE / "plain_script.py"), str(release), str(work / "plain")]
        results: dict[str, list[tuple[float, float]]] = {"ml-models": [], "plain": []}
        for _ in range(args.rounds):
            for name, command in (("ml-models", converter), ("plain", plain)):
                shutil.rmtree(work / name, ignore_errors=True)
                os.sync()
                results[name].append(timed([sys.executable, *command]))
        written = (
            sum(path.stat().st_size for path in (work / "ml-models").glob("*.safetensors")) / 1e9
        )
        medians = {
            name: tuple(map(statistics.median, zip(*rounds, strict=True)))
            for name, rounds in results.items()
        }
        for name, (seconds, memory) in medians.items():
            print(
                f"{name:6} {seconds:7.1f} s  {written / seconds * 1000:5.0f} MB/s  {memory:5.2f} GB"
            )
        (seconds, memory), (plain_seconds, plain_memory) = medians["ml-models"], medians["plain"]
        print(
            f"plain / ml-models: time {plain_seconds / seconds:.2f}, "
            f"memory {plain_memory / memory:.1f}"
        )
        print(f"314 B parameters in bfloat16 at this rate: {628 / written * seconds / 60:.0f} min")
        back = ["--from", "huggingface", "--to", "xai", "--input", str(work / "ml-models")]
        command = [*converter[:3], *back, "--output", str(work / "back")]
        seconds, memory = timed([sys.executable, *command])
        print(f"ml-models, back to xAI's format: {seconds:.1f} s, {memory:.2f} GB")
        # Last, as a process that is started later would be charged for this one's memory.
        print(f"same numbers: {same_numbers(work / 'ml-models', work / 'plain')}")


if __name__ == "__main__":
    main()
