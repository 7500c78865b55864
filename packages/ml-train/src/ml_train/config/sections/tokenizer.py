"""The tokenizer that made the data: checked against data and model, not needed for training."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ml_train.config.sections.rules import PerNode, Section
from ml_train.errors import ConfigError

_BY_CONTENT = PerNode(reason="the tokenizer's fingerprint is compared")


@dataclass(frozen=True, kw_only=True)
class TokenizerSection(Section):
    """Given, its vocabulary must fit the model and its fingerprint the data's manifest."""

    tokenizer_type: Literal["PretrainedFromHF", "Llama2Tokenizer"] = "PretrainedFromHF"
    """PretrainedFromHF (a directory or tokenizer.model) or Llama2Tokenizer (tokenizer.model)."""

    tokenizer_name_or_path: Annotated[str | None, _BY_CONTENT] = None
    """Directory or tokenizer.model file."""

    tokenizer_model: Annotated[str | None, _BY_CONTENT] = None
    """tokenizer.model file; another name for --tokenizer-name-or-path."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokenizer_name_or_path and self.tokenizer_model:
            raise ConfigError(
                "Give --tokenizer-name-or-path or --tokenizer-model, not both: they name one thing."
            )

    @property
    def path(self) -> str | None:
        """The tokenizer's path, from whichever flag gives it."""
        return self.tokenizer_name_or_path or self.tokenizer_model
