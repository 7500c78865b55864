"""How generate draws the next token, checked before torch is imported."""

from dataclasses import dataclass

from ml_train.config.sections.rules import COUNT, NUMBER_OR_NONE, Range, check_number
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""

    top_k: int | None = None
    """Draw among the k likeliest tokens only."""

    top_p: float | None = None
    """Draw among the likeliest tokens that together reach this probability."""

    def __post_init__(self) -> None:
        check_number("--temperature", self.temperature, NUMBER_OR_NONE)
        check_number("--top-k", self.top_k, COUNT)
        check_number("--top-p", self.top_p, Range(above=0, at_most=1))
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise ConfigError(
                "--top-k and --top-p have no effect with --temperature 0, which always takes the "
                "likeliest token; drop one or the other."
            )
