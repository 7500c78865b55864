"""Import one package and fail if the import had an effect or pulled in what it must not.

Usage: python tools/check_isolation.py ml_data
"""

from __future__ import annotations

import importlib
import logging
import os
import sys

FORBIDDEN = {
    "ml_data": ("torch", "transformers", "megatron", "ml_models", "ml_train"),
    "ml_models": ("ml_data", "ml_train", "transformers"),
    "ml_train": ("transformers",),
}


def main() -> int:
    """Return 0 when the import is clean, else 1 with a line per fault."""
    name = sys.argv[1]
    before = (dict(os.environ), list(sys.argv), list(logging.getLogger().handlers))
    module = importlib.import_module(name)
    importlib.import_module(f"{name}.cli")
    faults = [f"{name} imports {other}" for other in FORBIDDEN[name] if other in sys.modules]
    after = (dict(os.environ), list(sys.argv), list(logging.getLogger().handlers))
    for what, old, new in zip(("environment", "argv", "log handlers"), before, after, strict=True):
        if old != new:
            faults.append(f"importing {name} changes the {what}")
    for fault in faults:
        print(f"isolation: {fault}", file=sys.stderr)
    if not faults:
        print(f"{name} {module.__version__}: imports alone and changes nothing")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
