"""Runs of ml-train pretrain by forking one process that has imported everything.

A run of a few steps of a small model costs a second this way, where torchrun spends ten on the
imports of each rank. Everything else is as under torchrun: one process per rank, the environment
that it sets, the command line. `python forks.py` reads one JSON object per line, {"words", "ranks",
"log"}, and answers each with the exit code of the run.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LIMIT_SECONDS = 240
_IMPORTS = (
    "megatron.core.datasets.gpt_dataset",
    "megatron.core.dist_checkpointing",
    "megatron.core.optimizer",
    "megatron.core.pipeline_parallel",
    "torch.distributed.checkpoint",
    "torch.utils.tensorboard",
    "ml_models.grok1.spec",
    "ml_models.layers.block",
    "ml_models.layers.model",
    "ml_train.checkpoint.manager",
    "ml_train.data.loaders",
    "ml_train.pretrain_run",
    "ml_train.training.trainer",
)


class Forks:
    """The client's side: a context manager whose start() fits ml_train.diagnosis."""

    def __enter__(self) -> "Forks":
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def start(self, words: list[str], num_processes: int, log: Path) -> None:
        """Raises MlTrainError if the run fails."""
        from ml_train.errors import MlTrainError

        order = {"words": words, "ranks": num_processes, "log": str(log)}
        print(json.dumps(order), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        if answer.strip() != "0":
            tail = log.read_text(errors="replace")[-3000:] if log.is_file() else ""
            raise MlTrainError(f"A run ended with {answer.strip() or 'the server'}: {tail}")


def serve() -> None:
    """Answer orders until the input ends."""
    _import_everything()
    for line in sys.stdin:
        order = json.loads(line)
        print(run(["pretrain", *order["words"]], order["ranks"], order["log"]), flush=True)


def run(words: list[str], ranks: int, log: str) -> int:
    """Run the command `words`: the first exit code that is not 0, which ends the other ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = {}
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            _child(words, rank, ranks, port, log)
        children[pid] = rank
    deadline, code = time.monotonic() + LIMIT_SECONDS, 0
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in children:
            del children[pid]
            code = code or os.waitstatus_to_exitcode(status)
        elif code or time.monotonic() > deadline:
            code = code or 124
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.05)
        else:
            time.sleep(0.02)
    return code


def _child(words: list[str], rank: int, ranks: int, port: int, log: str) -> None:
    code = 1
    try:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        with Path(log).open("a", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        from ml_train import cli

        code = cli.main(words)
    except BaseException:  # noqa: BLE001 - into the log, whatever it is
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _import_everything() -> None:
    for name in _IMPORTS:
        importlib.import_module(name)


if __name__ == "__main__":
    serve()
