"""Which model a run trains, and the settings of training that the model's layers read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_train.errors import ConfigError

if TYPE_CHECKING:
    from ml_models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The architecture is chosen by name or file; Megatron's shape flags only confirm it."""

    model: str = "grok1-tiny"
    """A name that the registry of ml_models knows."""

    model_config: str | None = None
    """A model_config.json to use instead of a name."""

    model_override: tuple[str, ...] = ()
    """Changes to the named model as field=value, for example num_layers=2."""

    make_vocab_size_divisible_by: int = 128
    """Pad the vocabulary to a multiple of this times TP."""

    init_method_std: float | None = None
    """Standard deviation of the initial weights. Unset: the model's own (0.02 if it has none)."""

    moe_router_load_balancing_type: str = "aux_loss"
    """aux_loss or none."""

    moe_aux_loss_coeff: float = 1e-2
    """Weight of the load-balancing loss."""

    moe_z_loss_coeff: float | None = None
    """Weight of the router's z-loss; unset, there is none."""

    moe_expert_capacity_factor: float | None = None
    """Drop an expert's least likely tokens of a micro batch beyond this multiple of an even share.
    Unset, no token is dropped. Only without tensor parallelism."""

    execution: str = "eager"
    """eager, or compiled: element-wise work goes through torch.compile, which needs a compiler."""

    def __post_init__(self) -> None:
        if self.execution not in ("eager", "compiled"):
            raise ConfigError(f"--execution is {self.execution!r}; supported: eager, compiled.")
        factor = self.moe_expert_capacity_factor
        if factor is not None and factor <= 0:
            raise ConfigError(
                f"--moe-expert-capacity-factor is {factor}; it must be above 0. Leave it out to "
                "drop no token."
            )
        if self.moe_router_load_balancing_type not in ("aux_loss", "none"):
            raise ConfigError(
                "--moe-router-load-balancing-type is "
                f"{self.moe_router_load_balancing_type!r}; supported: aux_loss, none."
            )
        if self.make_vocab_size_divisible_by < 1:
            raise ConfigError("--make-vocab-size-divisible-by must be 1 or more.")

    def resolve(self) -> "ModelConfig":
        """The model's configuration, overrides applied."""
        from ml_models import registry

        if self.model_config is not None:
            model = _from_file(Path(self.model_config))
        else:
            if self.model not in registry.names():
                raise ConfigError(
                    f"--model {self.model!r} is not known; known: {', '.join(registry.names())}."
                )
            model = registry.get(self.model)
        changes = dict(_parse_override(item) for item in self.model_override)
        return model.replace(**changes) if changes else model


def _from_file(path: Path) -> "ModelConfig":
    from ml_models import registry

    try:
        return registry.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"--model-config {path} cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"--model-config {path} is not JSON: {error}.") from error


def _parse_override(item: str) -> tuple[str, Any]:
    name, equals, text = item.partition("=")
    if not equals:
        raise ConfigError(
            f"--model-override {item!r}: rule: field=value, for example num_layers=2."
        )
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text
