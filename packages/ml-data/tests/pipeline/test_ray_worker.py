"""The same bytes from Ray actors, on a cluster of one machine."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize

from ..conftest import files_of


@pytest.mark.slow
def test_ray_gives_the_bytes_of_a_local_run(
    tmp_path: Path, options: Callable[..., TokenizeOptions], sample: Path
) -> None:
    ray = pytest.importorskip("ray")
    tokenize(options(sample, output_prefix=str(tmp_path / "a" / "p")))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        tokenize(
            options(
                sample,
                output_prefix=str(tmp_path / "b" / "p"),
                executor="ray",
                workers=2,
                batch_bytes=65536,
            )
        )
    finally:
        ray.shutdown()
    expected, by_ray = (files_of(tmp_path / name / "p_text_document") for name in "ab")
    assert expected == by_ray
