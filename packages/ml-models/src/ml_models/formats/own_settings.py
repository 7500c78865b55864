"""Settings of a model that another program's configuration file cannot express.

hpcai-tech's config.json and xAI's settings of Grok-1 have no activation, no renormalised gates and
no model without a cap; Grok-2's config.json does not tell the kind of GELU. ml-models keeps the
whole configuration under the key "ml_models" of such a file, which the other program ignores.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from ml_models import registry
from ml_models.config import ModelConfig
from ml_models.errors import WeightError

KEY = "ml_models"

Config = TypeVar("Config", bound=ModelConfig)


def with_own_settings(
    config: Config, values: Mapping[str, object], fields: Iterable[str], where: str
) -> Config:
    """The model that ml-models wrote into a file; `config` where it did not write the file.

    config: the model by the file's other keys, which say the `fields`. Raises WeightError where the
    two contradict, as after an edit of the file.
    """
    own = values.get(KEY)
    if own is None:
        return config
    kept = registry.from_dict(own)
    # The other keys are what the other program computes with: they must not say something else.
    if not isinstance(kept, type(config)) or any(
        getattr(kept, name) != getattr(config, name) for name in fields
    ):
        raise WeightError(f"{where}: its own fields and those under {KEY} contradict.")
    return kept
