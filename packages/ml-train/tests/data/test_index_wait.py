"""Who waits for another rank's sample indexes notices when that rank is gone, and only then."""

import json
import threading
import time
from typing import Any

import pytest
import torch

from ml_train.data import indexes
from ml_train.errors import DataError

PURPOSE = "to build the sample indexes"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = torch._C._distributed_c10d.HashStore()
    monkeypatch.setattr(indexes, "_store", lambda: made)
    monkeypatch.setattr(indexes, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(indexes, "_ALIVE_SECONDS", 0.1)
    monkeypatch.setattr(indexes, "_SILENCE_SECONDS", 0.6)
    return made


def test_a_slow_builder_is_waited_for(store: Any) -> None:
    def build() -> None:
        with indexes.signs_of_life("key"):
            time.sleep(2)
        store.set("key", json.dumps({"files": {}}))

    thread = threading.Thread(target=build)
    thread.start()
    assert indexes._wait("key", PURPOSE, True) == {"files": {}}
    thread.join()
    before = store.add("key/alive", 0)
    assert before > 10
    time.sleep(0.3)
    assert store.add("key/alive", 0) == before


@pytest.mark.parametrize("signs", [0, 3])
def test_a_silent_builder_ends_the_wait(store: Any, signs: int) -> None:
    for _ in range(signs):
        store.add("key/alive", 1)
    with pytest.raises(DataError, match="this node's first rank was to build .* hangs or is gone"):
        indexes._wait("key", PURPOSE, False)
