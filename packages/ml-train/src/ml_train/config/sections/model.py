"""Which model a run trains, and the settings of training that the model's layers read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ml_models import registry
from ml_models.config import ModelConfig
from ml_train.config.sections.rules import COUNT, NUMBER_OR_NONE, POSITIVE, PerNode, Range, Section
from ml_train.errors import ConfigError
from ml_train.text_files import read_text

_CAPACITY = Range(above=0, text="above 0. Leave it out to drop no token")
_BY_CONTENT = PerNode(reason="the resulting model is compared, field by field")


@dataclass(frozen=True, kw_only=True)
class ModelSection(Section):
    """The architecture is chosen by name or file; Megatron's shape flags only confirm it."""

    # Not a Literal: plug-ins add architectures to the registry.
    model: Annotated[str, _BY_CONTENT] = "grok1-tiny"
    """A name that the registry of ml_models knows."""

    model_config: Annotated[str | None, _BY_CONTENT] = None
    """A model_config.json to use instead of a name."""

    model_override: Annotated[tuple[str, ...], _BY_CONTENT] = ()
    """Changes to the named model as field=value, for example num_layers=2."""

    make_vocab_size_divisible_by: Annotated[int, COUNT] = 128
    """Pad the vocabulary to a multiple of this times TP."""

    init_method_std: Annotated[float | None, POSITIVE] = None
    """Standard deviation of the initial weights. Unset: the model's own (0.02 if it has none)."""

    moe_router_load_balancing_type: Literal["aux_loss", "none"] = "aux_loss"
    """aux_loss or none."""

    moe_aux_loss_coeff: Annotated[float, NUMBER_OR_NONE] = 1e-2
    """Weight of the load-balancing loss."""

    moe_z_loss_coeff: Annotated[float | None, NUMBER_OR_NONE] = None
    """Weight of the router's z-loss; unset, there is none."""

    moe_expert_capacity_factor: Annotated[float | None, _CAPACITY] = None
    """Drop an expert's least likely tokens of a micro batch beyond this multiple of an even share.
    Unset, no token is dropped. Only without tensor parallelism."""

    execution: Literal["eager", "compiled"] = "eager"
    """eager, or compiled: element-wise work goes through torch.compile, which needs a compiler."""

    def resolve(self) -> ModelConfig:
        """The model's configuration, overrides applied."""
        if self.model_config is not None:
            model = _from_file(Path(self.model_config))
        else:
            if self.model not in registry.names():
                raise ConfigError(
                    f"--model {self.model!r} is not known; known: {', '.join(registry.names())}."
                )
            model = registry.get(self.model)
        changes = self.overrides()
        return model.replace(**changes) if changes else model

    def overrides(self) -> dict[str, object]:
        """Field of the model -> value, from --model-override. Raises ConfigError."""
        changes: dict[str, object] = {}
        for item in self.model_override:
            name, value = _parse_override(item)
            if name in changes and changes[name] != value:
                raise ConfigError(
                    f"--model-override gives {name} twice, as {changes[name]} and as {value}; "
                    "give it once."
                )
            changes[name] = value
        return changes


def _from_file(path: Path) -> ModelConfig:
    try:
        return registry.from_dict(json.loads(read_text(path, "--model-config")))
    except json.JSONDecodeError as error:
        raise ConfigError(f"--model-config {path} is not JSON: {error}.") from error


def _parse_override(item: str) -> tuple[str, object]:
    name, equals, text = item.partition("=")
    if not equals:
        raise ConfigError(
            f"--model-override {item!r}: rule: field=value, for example num_layers=2."
        )
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text  # A bare word is a text: the quotes of JSON get lost in shells.
