"""JSON files that a user brings."""

import json
from pathlib import Path

from ml_models.errors import WeightError
from ml_models.files.placeholders import placeholder


def read_json(path: Path) -> object:
    """The content of a JSON file. Raises WeightError."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise WeightError(f"{path}: no such file.") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = None if isinstance(error, OSError) else placeholder(path)
        reason = reason or f"not a readable JSON file ({error})"
        raise WeightError(f"{path}: {reason}.") from error
