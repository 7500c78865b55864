"""What an architecture brings: configurations with names, and a package of modules.

| module | what it gives | without it |
|---|---|---|
| `spec` | the layers, on megatron-core | every architecture has it |
| `weights` | parameters, and their names in Hugging Face's format | every architecture has it |
| `hf_config` | config.json, both ways | every architecture has it |
| `megatron_args` | the model in the arguments of Megatron's checkpoints | only sizes are compared |
| `release.format` | the publisher's own format of weights | there is no such format |
| `sources` | where each choice comes from | `ml-models show` names the package |

A module is imported when it is asked for, so that a model's name is looked up without torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ml_models.config import ModelConfig
from ml_models.errors import ConfigError

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    from ml_models.weights.boxes import Shape
    from ml_models.weights.maps import Row
    from ml_models.weights.sink import Sink, SinkOptions
    from ml_models.weights.source import Reader, Source

Settings = Mapping[str, object]
"""Arguments of a Megatron run by their names, such as num_layers."""


class Spec(Protocol):
    """The module `spec`."""

    def transformer_fields(self, model: ModelConfig) -> dict[str, object]:
        """megatron-core's TransformerConfig fields beyond those that every architecture sets."""

    def layer_spec(
        self, model: ModelConfig, config: "TransformerConfig", vp_stage: int | None
    ) -> "TransformerBlockSubmodules":
        """The layers of one (virtual) pipeline stage."""

    def model_arguments(self, model: ModelConfig) -> dict[str, float]:
        """Arguments of ml_models.layers.model.ScaledGPTModel."""


class WeightTables(Protocol):
    """The module `weights`; weights/maps.py explains the rows."""

    def shapes(self, model: ModelConfig) -> "dict[str, Shape]":
        """Every parameter with its whole shape."""

    def huggingface_rows(self, model: ModelConfig) -> "Sequence[Row]":
        """Which block of which parameter is which tensor of Hugging Face's format."""


class HuggingFaceConfig(Protocol):
    """The module `hf_config`; it may also have `notes(model)`, warnings for the report."""

    def recognises(self, values: Mapping[str, object]) -> bool:
        """Whether a config.json describes this architecture."""

    def from_huggingface(self, values: Mapping[str, object], where: str) -> ModelConfig:
        """The model of a config.json; `where` names the file in errors. Raises WeightError."""

    def to_huggingface(self, config: ModelConfig, dtype: str) -> dict[str, object]:
        """config.json of a model whose weights have the torch dtype `dtype`. WeightError."""


class MegatronArgs(Protocol):
    """The module `megatron_args`; formats/megatron/args.py calls it."""

    NEEDED: Sequence[str]
    """Settings without which the arguments do not describe a model of this architecture."""

    def describes(self, settings: Settings) -> bool:
        """Whether a run with these arguments trained this architecture."""

    def derive(self, settings: Settings, sizes: Mapping[str, object]) -> ModelConfig:
        """The model; `sizes` are the fields that every architecture has, read from `settings`."""

    def features(self, model: ModelConfig) -> Mapping[str, object]:
        """What the model computes beyond its sizes, by names of formats/megatron/args.py.

        Those are activation, post_norms, attention_logit_cap, attention_scale, renormalize_topk,
        embedding_multiplier_scale and output_multiplier_scale; a name left out is not compared.
        """


class ReleaseFormat(Protocol):
    """The module `release.format`: weights as the publisher of the architecture stores them."""

    CONTENT: str
    """What a folder of the format holds, in words for messages."""

    EXAMPLE_MODEL: str
    """The released model's name, for the command that converts it; "" where the folder says it."""

    FILES: str
    """A pattern of the names that the format's files of weights have."""

    def holds_weights(self, folder: Path) -> bool:
        """Whether a folder looks like this format."""

    def describes_model(self, values: Mapping[str, object]) -> bool:
        """Whether a JSON object is a configuration file of this format."""

    def config_of(self, values: Mapping[str, object], where: str) -> ModelConfig:
        """The model of such a file; `where` names it in errors. Raises WeightError."""

    def find_config(self, folder: Path) -> Path | None:
        """The configuration file that belongs to a folder of weights."""

    def open_source(self, folder: Path, model: ModelConfig | None) -> "Source":
        """The weights of a folder. Raises WeightError, without a model too."""

    def make_sink(self, reader: "Reader", options: "SinkOptions") -> "Sink":
        """A sink for the model that `reader` reads. Raises WeightError for what has no place."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A package that holds one architecture, and the sizes of it that have a name."""

    name: str
    """ModelConfig.architecture of its configurations."""

    config_type: type[ModelConfig]

    package: str
    """Has the modules spec, weights, hf_config, and those that it needs of the others."""

    named: Mapping[str, Callable[[], ModelConfig]] = field(default_factory=dict)
    """What `registry.get` finds: name -> function that returns the configuration."""

    variants: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """What --variant chooses: name -> the fields of the configuration that it sets."""

    release_format: str = ""
    """The name that --from and --to have for the publisher's own format, "" for none."""

    logits_tolerance: float = 1e-4
    """How far fp32 logits may be off another program's, where `ml-models compare` is not told."""

    def spec(self) -> Spec:
        """How the model is built."""
        return cast(Spec, import_module(f"{self.package}.spec"))

    def weights(self) -> WeightTables:
        """Which parameters the model has."""
        return cast(WeightTables, import_module(f"{self.package}.weights"))

    def hf_config(self) -> HuggingFaceConfig:
        """How the model is described in a config.json."""
        return cast(HuggingFaceConfig, import_module(f"{self.package}.hf_config"))

    def megatron_args(self) -> MegatronArgs | None:
        """How the model is described by Megatron's arguments; None for a package without it."""
        # find_spec tells a module that is absent from one that fails to import.
        if find_spec(f"{self.package}.megatron_args") is None:
            return None
        return cast(MegatronArgs, import_module(f"{self.package}.megatron_args"))

    def release(self) -> ReleaseFormat:
        """The publisher's own format, of an architecture with a `release_format`."""
        return cast(ReleaseFormat, import_module(f"{self.package}.release.format"))

    def source_of(self, model_name: str, field_name: str) -> str:
        """Where a choice comes from, in one line."""
        if find_spec(f"{self.package}.sources") is None:
            return f"the package {self.package}"
        sources = import_module(f"{self.package}.sources")
        return str(sources.source_of(model_name, field_name))

    def with_variant(self, model: ModelConfig, variant: str) -> ModelConfig:
        """`model` with the fields of a named variant. Raises ConfigError for an unknown name."""
        if not self.variants:
            raise ConfigError(f"--variant is {variant}; {self.name} has no variants.")
        if variant not in self.variants:
            raise ConfigError(f"--variant is {variant!r}; known: {', '.join(self.variants)}.")
        return model.replace(**self.variants[variant])
