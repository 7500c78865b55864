"""A model's numbers against a reference file's.

`read_reference` reads the file (its keys: reference.py), `compare` runs the model and reports how
far each number is off.
"""

from ml_models.comparison.reference import read_reference
from ml_models.comparison.run import compare

__all__ = ["compare", "read_reference"]
