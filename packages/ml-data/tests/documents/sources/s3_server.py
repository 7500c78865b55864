"""An S3-compatible server on the loopback, for tests of remote inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def s3_server() -> Iterator[tuple[Any, str]]:
    """(Arrow's file system for it, the query of a URI that leads to it)."""
    from pyarrow import fs

    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patch.setenv(name, value)
        query = f"region=us-east-1&scheme=http&endpoint_override={host}:{port}"
        yield fs.FileSystem.from_uri(f"s3://data?{query}&allow_bucket_creation=true")[0], query
    server.stop()
