"""Helpers beside the tests are importable by name."""

import sys
from pathlib import Path

from ml_models.platforms import make_core_importable

sys.path.insert(0, str(Path(__file__).parent))
# Tests import megatron-core at their top, where an entry point would have asked for a platform.
make_core_importable()
