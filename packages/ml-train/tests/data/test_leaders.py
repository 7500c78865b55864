"""Who waits for another rank's sample indexes notices when that rank is gone, and only then."""

import json
import threading
import time
from typing import Any

import pytest
import torch

from ml_train.data import leaders
from ml_train.errors import DataError

PURPOSE = "to build the sample indexes"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = torch._C._distributed_c10d.HashStore()
    monkeypatch.setattr(leaders, "_store", lambda: made)
    monkeypatch.setattr(leaders, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(leaders, "_ALIVE_SECONDS", 0.1)
    monkeypatch.setattr(leaders, "_SILENCE_SECONDS", 0.6)
    return made


def test_a_slow_builder_is_waited_for(store: Any) -> None:
    def build() -> None:
        with leaders.signs_of_life("key"):
            time.sleep(2)
        store.set("key", json.dumps({"node": 0, "host": "h", "value": {"files": {}}}))

    thread = threading.Thread(target=build)
    thread.start()
    assert leaders.wait_for_answer("key", PURPOSE, True).result() == {"files": {}}
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
        leaders.wait_for_answer("key", PURPOSE, False)
