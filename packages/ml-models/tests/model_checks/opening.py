"""The reference folders as sources."""

from ml_models.conversion.open import open_source
from ml_models.weights.source import Source
from model_checks.references import DATA, XAI


def open_reference(name: str) -> Source:
    """One of the references, in the format that it has."""
    if name in XAI:
        return open_source("xai", DATA / name / "ckpt-0")
    return open_source("huggingface", DATA / name)
