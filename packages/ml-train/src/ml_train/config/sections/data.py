"""Which token files a run reads, and how sequences are cut out of them."""

import math
import re
from dataclasses import dataclass
from typing import Annotated

from ml_train.config.sections.rules import NUMBER_OR_NONE, PerNode, Section
from ml_train.errors import ConfigError

_BY_CONTENT = PerNode(reason="the token files are compared by their content")


@dataclass(frozen=True, kw_only=True)
class DataSection(Section):
    """Prefixes of .bin/.idx pairs, their split, and where the sample indexes are kept."""

    data_path: Annotated[tuple[str, ...], _BY_CONTENT] = ()
    """One prefix, several prefixes, or a blend: weight prefix weight prefix ..."""

    train_data_path: Annotated[tuple[str, ...], _BY_CONTENT] = ()
    """Prefix or blend for training only; goes with --valid-data-path instead of --split."""

    valid_data_path: Annotated[tuple[str, ...], _BY_CONTENT] = ()
    """Prefix or blend for validation only."""

    test_data_path: Annotated[tuple[str, ...], _BY_CONTENT] = ()
    """Prefix or blend for the final test only."""

    split: str = "969,30,1"
    """Shares of documents for training, validation and test of --data-path."""

    mock_data: bool = False
    """Train on made-up tokens, uniform over the vocabulary, instead of token files."""

    data_cache_path: Annotated[str | None, PerNode(reason="a node may keep its own cache")] = None
    """Directory of the sample indexes. Unset: index_cache beside the first prefix."""

    shared_storage: bool | None = None
    """Whether all nodes see the same files. Unset: found out by a probe file."""

    new_data_order: bool = False
    """Go on although data, split, sequence length or seed are not the checkpoint's: a new order of
    the data begins, which may repeat what was seen. Without it such a resume is refused."""

    num_workers: Annotated[int, NUMBER_OR_NONE, PerNode(reason="it changes no batch")] = 0
    """Processes per rank that read ahead; 0 reads in the training process."""

    eod_mask_loss: bool = False
    """Leave the prediction after an end-of-document token out of the loss."""

    no_mmap_bin_files: Annotated[bool, PerNode(reason="it changes no batch")] = False
    """Read the .bin file with file reads instead of a memory map."""

    @property
    def blends(self) -> dict[str, tuple[str, ...]]:
        """Flag -> its words, for the four flags that name token files."""
        return {
            "--data-path": self.data_path,
            "--train-data-path": self.train_data_path,
            "--valid-data-path": self.valid_data_path,
            "--test-data-path": self.test_data_path,
        }

    @property
    def is_given(self) -> bool:
        """Whether any data is named."""
        return self.mock_data or any(self.blends.values())

    def __post_init__(self) -> None:
        super().__post_init__()
        per_split = self.train_data_path or self.valid_data_path or self.test_data_path
        if self.mock_data and (self.data_path or per_split):
            raise ConfigError(
                "--mock-data makes tokens up, and a data path names token files: give one of them."
            )
        if self.data_path and per_split:
            raise ConfigError(
                "Give --data-path with --split, or --train-data-path, --valid-data-path and "
                "--test-data-path, not both: they name the same data twice."
            )
        _check_split(self.split)
        for flag, words in self.blends.items():
            parse_blend(words, flag)


def _check_split(split: str) -> None:
    parts = split.split(",")
    # float() alone would take nan, infinities and 1e999 as well.
    are_numbers = all(re.fullmatch(r"\s*\d+(\.\d*)?\s*", part) for part in parts)
    if not are_numbers or len(parts) > 3 or not 0 < sum(map(float, parts)) < math.inf:
        raise ConfigError(
            f"--split is {split!r}; rule: up to three shares for training, validation and test "
            "with a positive sum, for example 99990,8,2."
        )


def parse_blend(items: tuple[str, ...], flag: str) -> tuple[list[str], list[float] | None]:
    """(prefixes, weights or None) of a flag's words. Raises ConfigError."""
    # A single word is a prefix, even if it is a number.
    if len(items) < 2 or not _is_number(items[0]):
        return list(items), None
    weights, prefixes = items[0::2], items[1::2]
    if len(items) % 2 or not all(_is_number(weight) for weight in weights):
        raise ConfigError(
            f"{flag} {' '.join(items)}: rule: pairs of weight and prefix, or prefixes alone."
        )
    values = [float(weight) for weight in weights]
    for value in values:
        if not math.isfinite(value):
            raise ConfigError(f"{flag}: weight {value:g} is not a finite number.")
        if value <= 0:
            raise ConfigError(f"{flag}: weight {value:g} is not above 0; leave its prefix out.")
    return list(prefixes), values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
