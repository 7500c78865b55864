"""Paths and small inputs that the tests share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_data.pipeline.options import TokenizeOptions

EXAMPLES = Path(__file__).parents[3] / "examples" / "data"


@pytest.fixture(scope="session")
def tokenizer_path() -> Path:
    """The shipped Grok-1 tokenizer."""
    return EXAMPLES / "grok1_tokenizer"


@pytest.fixture(scope="session")
def sample() -> Path:
    """The shipped parquet sample."""
    return EXAMPLES / "alpaca_sample.parquet"


@pytest.fixture
def options(tmp_path: Path, tokenizer_path: Path) -> Callable[..., TokenizeOptions]:
    """Options with small batches and shards, writing to `tmp_path / "out" / name`."""

    def make(*inputs: object, name: str = "p", **changes: Any) -> TokenizeOptions:
        values: dict[str, Any] = {
            "input": tuple(map(str, inputs)),
            "tokenizer_name_or_path": str(tokenizer_path),
            "output_prefix": str(tmp_path / "out" / name),
            "workers": 1,
            "batch_bytes": 4096,
            "shard_bytes": 3 * 4096,
        }
        return TokenizeOptions(**{**values, **changes})

    return make


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """A parquet file of these columns."""
    pq.write_table(pa.table(columns), path, **options)
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    """A JSON lines file of these rows; bytes go in as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def files_of(prefix: str | Path) -> dict[str, bytes]:
    """Everything a run leaves, by suffix; of the manifest all but its section `run`."""
    prefix = Path(prefix)
    contents: dict[str, bytes] = {}
    for path in sorted(prefix.parent.glob(prefix.name + "*")):
        content = path.read_bytes() if path.is_file() else b"<folder>"
        if path.suffix == ".json":
            manifest = json.loads(content)
            manifest.pop("run")
            content = json.dumps(manifest).encode()
        contents[path.name.removeprefix(prefix.name)] = content
    return contents
