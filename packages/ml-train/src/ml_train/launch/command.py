"""Console command ml-train-launch, with torchrun's flags.

torchrun answers a failed job, a port in use and every signal with a traceback of its own code. The
traceback hides the sentence that says what was wrong. Exit codes: that of the first process that
failed, or 128 and the number of its signal; 2 for flags that make no sense. After a signal to the
launcher that of the processes, which is 0 where SIGTERM or SIGUSR1 ended in a save.
"""

import sys
from collections.abc import Sequence

from ml_models.terminal import Voice
from ml_train.errors import BAD_USAGE, FAILED, ConfigError, StartError
from ml_train.launch.signals import PassedOn

VOICE = Voice("ml-train-launch", "ml_train.launch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run torchrun; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with VOICE.speaking():
        try:
            with PassedOn(VOICE.notice) as signals:
                # Imported here: it imports torch, and a signal that comes meanwhile must be heard.
                from ml_train.launch import torchrun

                return torchrun.run(words, signals, VOICE.notice)
        except ConfigError as error:
            VOICE.error(str(error))
            return BAD_USAGE
        except StartError as error:
            VOICE.error(str(error))
            return FAILED
