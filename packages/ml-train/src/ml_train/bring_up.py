"""The platform of an ml-train command. ml_models.bring_up says in which order a process starts."""

from typing import TYPE_CHECKING

from ml_models import bring_up
from ml_train import terminal

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform


def start_platform(name: str, *, local_rank: int = 0) -> "Platform":
    """The platform called `name`, with megatron-core adapted to it.

    `local_rank` is the number of this process's device on its machine. Raises PlatformError and
    RequirementError.
    """
    return bring_up.start_platform(
        name,
        local_rank=local_rank,
        packages=("ml_models", "ml_train"),
        detail=terminal.detail,
    )
