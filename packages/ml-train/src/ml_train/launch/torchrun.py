"""torchrun inside ml-train-launch: addresses are checked first, failures become a sentence."""

import logging
import os
from collections.abc import Callable

from torch.distributed import run as torch_run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError

from ml_train.errors import BAD_USAGE, DONE, INTERRUPTED, ConfigError, StartError
from ml_train.launch import environment, meeting_point
from ml_train.launch.launcher_watch import LAUNCHER
from ml_train.launch.signals import PassedOn


def run(arguments: list[str], signals: PassedOn, say: Callable[[str], None]) -> int:
    """The job's exit code. Raises ConfigError and StartError where it cannot be started."""
    os.environ[LAUNCHER] = str(os.getpid())
    _quiet_torchrun()
    try:
        flags = torch_run.parse_args(arguments)
        environment.prepare(flags, say)
        meeting_point.check(flags, say)
        with meeting_point.patience(flags, say):
            torch_run.run(flags)
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        return _failed(rank, first.exitcode, say)
    except SignalException as error:
        return signals.exit_code(int(error.sigval))
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        return BAD_USAGE if error.code else DONE
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"torchrun cannot start with these flags: {error}") from error
    except (RendezvousError, RuntimeError, OSError) as error:
        raise StartError(f"the processes could not be started: {_first_line(error)}") from error
    return DONE


def _quiet_torchrun() -> None:
    """Silence torchrun's warnings of a signal or of the end of a process: ml-train tells both."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _failed(rank: int, code: int, say: Callable[[str], None]) -> int:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    say(f"launch: rank {rank} failed first, with {how}")
    return code if code > 0 else 128 - code


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
