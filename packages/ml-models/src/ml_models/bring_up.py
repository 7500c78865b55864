"""From the name of a device to a process that may build models: the order of imports, in one file.

1. `platforms.make_core_importable` checks what is installed, before torch is imported. A command
   that reads data and builds no model, such as ml-train index, needs this step alone.
2. `start_platform` chooses the device and adapts megatron-core to it. On Ascend machines it loads
   MindSpeed's adaptor, which has no effect on modules of megatron-core that are imported already.
   So nothing before this step imports megatron-core.
3. `import_model_code` imports the modules of the model, and megatron-core with them. A module that
   is imported inside the platform's context would keep the names of torch.cuda which the context
   replaces. So this step comes before the context.
4. The caller enters `platform.context()`, makes the process groups and builds the model.
   `single_process.whole_model` does this for a command of one process.

ml-models compare takes these steps, and so do ml-train pretrain, generate and evaluate. This module
imports no torch, so that a command may import it before it has checked its flags.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ml_models import registry, terminal
from ml_models.build import make_transformer_config
from ml_models.megatron_core.check import check_unknown_line
from ml_models.platforms import get_platform

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_models.platforms.base import Platform


def start_platform(
    name: str,
    *,
    local_rank: int = 0,
    packages: tuple[str, ...] = ("ml_models",),
    detail: Callable[[str], None] = terminal.detail,
) -> "Platform":
    """The platform called `name` ("auto": what there is), with megatron-core adapted to it.

    `local_rank` is the number of this process's device on its machine. `packages` are those that
    will use megatron-core: on a line of it that no test has run on, what they use is checked.
    `detail` is told what was adapted, a row of the platform's tables per call.
    Raises PlatformError and RequirementError.
    """
    platform = get_platform(name)
    platform.set_device(local_rank)
    for row in platform.apply():
        detail(f"{platform.name}: adapted {row}")
    check_unknown_line(*packages, configure=_configure_a_small_model)
    return platform


def _configure_a_small_model() -> None:
    make_transformer_config(registry.get("grok1-tiny"))


def import_model_code(model: "ModelConfig") -> None:
    """Import what building `model` needs: after `start_platform`, before the platform's context."""
    # These are imported here and not at the top: they import megatron-core (step 3 above).
    import ml_models.layers.block
    import ml_models.layers.model  # noqa: F401

    registry.architecture(model).spec()
