"""Tables of facts that the package brings as TOML files."""

import sys
from importlib.resources import files
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_table(package: str, file: str) -> dict[str, Any]:
    """The TOML file called `file` beside the modules of `package`."""
    return tomllib.loads(files(package).joinpath(file).read_text(encoding="utf-8"))
