"""The base of every architecture's configuration: sizes, their checks, and JSON.

A configuration is frozen and says only what the model is. How the model is trained and divided is
megatron-core's TransformerConfig, see `ml_models.build.make_transformer_config`. This module does
not import torch, so that commands can list and show models without it.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from types import NoneType, UnionType
from typing import ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import Self

from ml_models.errors import ConfigError
from ml_models.nearest import nearest_name
from ml_models.scoring import Scoring


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a mixture-of-experts transformer with grouped-query attention and RoPE."""

    architecture: ClassVar[str] = ""

    positive: ClassVar[tuple[str, ...]] = ("rotary_base", "norm_epsilon", "init_method_std")
    """Fields of type float that must be greater than 0. Every number must be finite."""

    embedding_is_active: ClassVar[bool] = True
    """Whether an embedding beside an untied output counts among the active parameters."""

    num_layers: int
    """Transformer layers."""

    hidden_size: int
    """Width H of the residual stream."""

    ffn_hidden_size: int
    """Inner width F of one expert."""

    num_attention_heads: int
    """Query heads."""

    num_query_groups: int
    """Key and value heads; query head j reads group j // (heads / groups)."""

    kv_channels: int
    """Size of one head; heads * kv_channels need not equal hidden_size."""

    num_experts: int
    """Experts per layer; 1 in an architecture whose layers are dense."""

    moe_router_topk: int
    """Experts that one token passes."""

    vocab_size: int
    """Entries of the vocabulary, without padding."""

    seq_length: int
    """The longest sequence the model was made for."""

    rotary_base: float = 10000.0
    """RoPE's theta."""

    norm_epsilon: float = 1e-5
    """Added to the mean square inside RMSNorm."""

    init_method_std: float = 0.02
    """Standard deviation of the initial weights."""

    untie_embeddings_and_output_weights: bool = False
    """True: the output projection has a weight of its own."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is not ClassVar:
                self._check_value(name, hint)
        self._require(
            self.num_attention_heads % self.num_query_groups == 0,
            "num_attention_heads",
            f"a multiple of num_query_groups, which is {self.num_query_groups}",
        )
        self._require(self.kv_channels % 2 == 0, "kv_channels", "even, as RoPE turns pairs")
        self._require(
            self.moe_router_topk <= self.num_experts,
            "moe_router_topk",
            f"at most num_experts, which is {self.num_experts}",
        )
        self._require(
            self.moe_router_topk > 1 or not (self.has_router and self.gates_sum_to_one),
            "moe_router_topk",
            "2 or more, as the gates of the chosen experts are made to sum to 1: a single gate "
            "would be 1 whatever the router says, and the router would learn nothing",
        )

    @property
    def has_router(self) -> bool:
        """Whether a layer has a router: not where a single expert stands for a dense MLP."""
        return self.num_experts > 1

    @property
    def gates_sum_to_one(self) -> bool:
        """Whether the gates of the chosen experts are divided by their sum."""
        return False

    @property
    def activation(self) -> str:
        """Of the experts' gate, a name of kernels/activation.py; kernels are chosen by it."""
        return "silu"

    @property
    def attention_scoring(self) -> Scoring:
        """What attention does with q.k before the softmax; kernels are chosen by it."""
        return Scoring(scale=self.kv_channels**-0.5)

    @property
    def dense_mlp_width(self) -> int:
        """Inner width of an MLP that every token passes beside its experts; 0 for none."""
        return 0

    def _check_value(self, name: str, hint: object) -> None:
        """Check a field against its type; a whole number is a size and must be 1 or more."""
        value = getattr(self, name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        none = ", or null for none" if NoneType in kinds else ""
        if value is None and none:
            return
        # In Python a bool is an int: True would pass for the size 1.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        for kind in kinds:
            if get_origin(kind) is Literal:
                choices = get_args(kind)
                self._require(value in choices, name, f"one of {', '.join(choices)}")
            elif kind is bool:
                self._require(isinstance(value, bool), name, "true or false")
            elif kind is int:
                self._require(number and isinstance(value, int), name, f"a whole number{none}")
                self._require(value >= 1, name, f"1 or more{none}")
            elif kind is float:
                self._require(number and math.isfinite(value), name, f"a finite number{none}")
                good = value > 0 or name not in self.positive
                self._require(good, name, f"greater than 0{none}")
                # JSON and flags write 50 for 50.0, and torch takes an int for another dtype.
                object.__setattr__(self, name, float(value))

    def _require(self, holds: bool, name: str, rule: str) -> None:
        if not holds:
            raise ConfigError(
                f"{self.architecture or 'model'}: {name} is {getattr(self, name)!r}; "
                f"it must be {rule}."
            )

    @classmethod
    def of(cls, fields: Mapping[str, object]) -> Self:
        """The configuration with fields from a file, whose types the constructor checks."""
        return cls(**fields)  # type: ignore[arg-type]

    def replace(self, **changes: object) -> Self:
        """A copy with `changes`; an unknown field is a ConfigError that names the nearest."""
        reject_unknown_fields(type(self), changes)
        return replace(self, **changes)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, object]:
        """JSON values, with the architecture's name; `ml_models.registry.from_dict` reads it."""
        return {"architecture": self.architecture, **asdict(self)}


def reject_unknown_fields(config_type: type[ModelConfig], values: Mapping[str, object]) -> None:
    """Raise ConfigError for the first key of `values` that is no field of `config_type`."""
    known = [field.name for field in fields(config_type)]
    for name in values:
        if name not in known:
            # Field names are long and few: a remote guess helps more than the list of all.
            near = nearest_name(name, known, cutoff=0.4)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}."
            raise ConfigError(f"{config_type.__name__} has no field {name!r}; {hint}")


def missing_fields(config_type: type[ModelConfig], values: Mapping[str, object]) -> list[str]:
    """Fields of `config_type` without a default that `values` lacks."""
    return [
        field.name
        for field in fields(config_type)
        if field.default is MISSING
        and field.default_factory is MISSING
        and field.name not in values
    ]
