"""The exceptions that ml_models raises for what a user can fix, and the exit codes of its commands.

Each text names the field or file, the value, the rule and the fix; a command prints it. The three
packages share the exit codes by convention: 0 done, 1 failed, 2 bad usage, 130 Ctrl-C, 143 SIGTERM.
"""

from collections.abc import Mapping
from types import MappingProxyType

DONE, FAILED, BAD_USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class MlModelsError(Exception):
    """Anything wrong that the user can put right."""


class ConfigError(MlModelsError):
    """A model configuration that cannot be built."""


class LayoutError(ConfigError):
    """A model that cannot be divided as asked: TP, PP, EP or ETP does not fit its sizes."""


class WeightError(MlModelsError):
    """Weights that are missing, superfluous, truncated, of another shape or of another model."""


class RequirementError(MlModelsError):
    """A Python, torch or megatron-core that is missing, broken or of a version that cannot serve.

    The text ends in the pip command that helps.
    """


class PlatformError(MlModelsError):
    """A device platform that is not there, not known or not able to do what was asked."""


class UnknownPlatformError(PlatformError):
    """A name that no device platform has."""


class UnknownDeviceError(MlModelsError):
    """A name that the table of devices lacks."""


class Terminated(BaseException):
    """SIGTERM came. Like KeyboardInterrupt it passes through `except Exception`."""


EXIT_CODES: Mapping[type[BaseException], int] = MappingProxyType(
    {
        MlModelsError: FAILED,
        ConfigError: BAD_USAGE,
        UnknownPlatformError: BAD_USAGE,
        UnknownDeviceError: BAD_USAGE,
        OSError: FAILED,
        KeyboardInterrupt: INTERRUPTED,
        Terminated: TERMINATED,
    }
)
"""What a command ends with. The nearest base class of an error counts."""


def exit_code(error: BaseException, table: Mapping[type[BaseException], int] = EXIT_CODES) -> int:
    """The code of an error, by its class or the nearest base class in the table."""
    return next(table[base] for base in type(error).__mro__ if base in table)
