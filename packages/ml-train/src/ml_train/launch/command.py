"""Console command ml-train-launch, with torchrun's flags.

torchrun answers a failed job, a port in use and every signal with a traceback of its own code,
under which the one sentence that says what was wrong is easily missed. Exit codes: that of the
first process that failed, 128 and the number of its signal; 2 for flags that make no sense; after a
signal to the launcher that of the processes, which is 0 where SIGTERM or SIGUSR1 ended in a save.
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_models.terminal import Voice
from ml_train.errors import BAD_USAGE, DONE, FAILED, ConfigError, StartError

if TYPE_CHECKING:
    from ml_train.launch.signals import PassedOn

LAUNCHER = "ML_TRAIN_LAUNCHER"
"""Environment variable: the process without which the ranks end."""

VOICE = Voice("ml-train-launch", "ml_train.launch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun; the exit code."""
    from ml_train.launch.signals import PassedOn

    with VOICE.speaking():
        try:
            with PassedOn(VOICE.notice) as signals:
                return _launch(list(sys.argv[1:] if arguments is None else arguments), signals)
        except ConfigError as error:
            VOICE.error(str(error))
            return BAD_USAGE
        except StartError as error:
            VOICE.error(str(error))
            return FAILED


def _launch(arguments: list[str], signals: "PassedOn") -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    from ml_train.launch import meeting_point

    os.environ[LAUNCHER] = str(os.getpid())
    _quiet_torchrun()
    try:
        flags = run.parse_args(arguments)
        meeting_point.check(flags, VOICE.notice)
        with meeting_point.patience(flags, VOICE.notice):
            run.run(flags)
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        return _failed(rank, first.exitcode)
    except SignalException as error:
        return signals.exit_code(int(error.sigval))
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        return BAD_USAGE if error.code else DONE
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"torchrun cannot start with these flags: {error}") from error
    except (RendezvousError, RuntimeError, OSError) as error:
        raise StartError(f"the processes could not be started: {_first_line(error)}") from error
    return DONE


def _quiet_torchrun() -> None:
    """What its loggers warn of, a signal or the end of a process, is said here, once."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _failed(rank: int, code: int) -> int:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    VOICE.notice(f"launch: rank {rank} failed first, with {how}")
    return code if code > 0 else 128 - code


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
