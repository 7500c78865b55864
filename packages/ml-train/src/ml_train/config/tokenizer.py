"""The tokenizer that made the data: checked against data and model, not needed for training."""

from dataclasses import dataclass

from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TokenizerSection:
    """Given, its vocabulary must fit the model and its fingerprint the data's manifest."""

    tokenizer_type: str = "PretrainedFromHF"
    """PretrainedFromHF (a directory or tokenizer.model) or Llama2Tokenizer (tokenizer.model)."""

    tokenizer_name_or_path: str | None = None
    """Directory or tokenizer.model file."""

    tokenizer_model: str | None = None
    """tokenizer.model file; another name for --tokenizer-name-or-path."""

    def __post_init__(self) -> None:
        if self.tokenizer_type not in ("PretrainedFromHF", "Llama2Tokenizer"):
            raise ConfigError(
                f"--tokenizer-type is {self.tokenizer_type!r}; supported: PretrainedFromHF, "
                "Llama2Tokenizer."
            )
        if self.tokenizer_name_or_path and self.tokenizer_model:
            raise ConfigError(
                "Give --tokenizer-name-or-path or --tokenizer-model, not both: they name one thing."
            )

    @property
    def path(self) -> str | None:
        """Where the tokenizer is, whichever flag said it."""
        return self.tokenizer_name_or_path or self.tokenizer_model
