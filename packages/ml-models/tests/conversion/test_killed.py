"""kill -9 at seeded moments of a conversion, then --resume: the result has the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from model_checks.references import DATA

WORKER = """
import json, os, random, shutil, signal, sys
from pathlib import Path
import torch
from ml_models.conversion.convert import convert
from ml_models.weights.sink import SinkOptions
from ml_models.conversion.open import open_source

data, folder, to, seed, kills = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
# The groups of scales are those of the input.
options = SinkOptions(
    file_bytes=60_000, chunk_bytes=3_000, scale_groups=1 if to == "xai" else None
)
torch.set_num_threads(1)
random.seed(int(seed))
def content(output):
    return {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*")}
def work(output, resume, limit):
    # Ends this process at the limit-th call of a C function: any moment may be hit.
    left = limit
    def count(frame, event, argument):
        nonlocal left
        left -= event == "c_call"
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    source = open_source("xai", data)
    sys.setprofile(count)
    try:
        convert(source, to, output, options, resume=resume)
    finally:
        sys.setprofile(None)
    return limit - left
work(folder / "first", False, 10**9)  # imports what is imported late
calls = work(folder / "whole", False, 10**9)
whole = content(folder / "whole")
killed = 0
def attempt(output, limit):
    # Whether a conversion into output was killed at its limit-th call; it may end before.
    global killed
    child = os.fork()
    if child == 0:
        try:
            work(output, True, limit)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, (output, limit, status)
    if output.exists():
        missing = whole.keys() - content(output).keys()
        assert not missing, (output, limit, missing)
    killed += os.WIFSIGNALED(status)
    return os.WIFSIGNALED(status)
for number in range(int(kills)):
    output = folder / f"out{number}"
    # The last moments, where the folder gets its name, are few: a third of the kills go there.
    last = number % 3 == 0
    moment = random.randrange(calls - 400, calls) if last else random.randrange(1, calls)
    # The number of calls varies with the threads: a conversion that ended before is begun anew.
    while not attempt(output, moment):
        shutil.rmtree(output)
        moment -= 100
    for limit in (random.randrange(1, calls), 10**9):
        if output.exists() and content(output).keys() == whole.keys():
            break
        attempt(output, limit)
    finished = content(output)
    assert finished.keys() == whole.keys(), (number, finished.keys() ^ whole.keys())
    different = [name for name in whole if finished[name] != whole[name]]
    assert not different, (number, different)
    assert not (folder / f"out{number}.partial").exists()
    shutil.rmtree(output)
print(json.dumps([calls, killed, len(whole)]))
"""


def run(folder: Path, to: str, seed: int, kills: int) -> None:
    data = DATA / "xai_tiny_mesh1" / "ckpt-0"
    command = [sys.executable, "-W", "ignore", "-c", WORKER, *map(str, (data, folder, to))]
    result = subprocess.run(
        [*command, str(seed), str(kills)], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-3000:]
    calls, killed, files = json.loads(result.stdout.splitlines()[-1])
    assert calls > 5000 and files > 8
    assert killed >= kills, "each conversion was killed once or twice"


@pytest.mark.parametrize("to", ["megatron", "huggingface", "xai"])
def test_killed_and_resumed(to: str, tmp_path: Path) -> None:
    run(tmp_path, to, seed=1, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["megatron", "huggingface", "xai"])
def test_killed_and_resumed_often(to: str, tmp_path: Path) -> None:
    run(tmp_path, to, seed=2, kills=60)
