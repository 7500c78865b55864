"""A restarted job must not read what a dead start left in the store that torchrun keeps."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import torch

from ml_train.errors import LayoutError
from ml_train.parallel.groups import agree_on_start
from ml_train.parallel.layout import World


def starts(store: Any, *ranks: int, size: int, seconds: float = 10) -> dict[int, Any]:
    answers: dict[int, Any] = {}

    def one(rank: int) -> None:
        world = World(rank=rank, size=size, local_rank=rank)
        try:
            answers[rank] = agree_on_start(store, world, timedelta(seconds=seconds))
        except LayoutError as error:
            answers[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


def store(seconds: float = 10) -> Any:
    made = torch._C._distributed_c10d.HashStore()
    made.set_timeout(timedelta(seconds=seconds))
    return made


def test_each_start_has_a_name_of_its_own_on_all_ranks() -> None:
    shared = store()
    names = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        answers = starts(shared, *order, size=3)
        assert len(set(answers.values())) == 1
        names.append(answers[0])
    assert len(set(names)) == 3


def test_a_start_that_died_half_way_leaves_nothing_behind() -> None:
    shared = store(0.5)
    died = starts(shared, 1, 2, size=3)
    assert all("no answer from rank 0" in str(error) for error in died.values())
    assert len(set(starts(shared, 2, 0, 1, size=3).values())) == 1


def test_who_does_not_come_is_counted() -> None:
    answers = starts(store(), 0, 1, size=3, seconds=0.5)
    assert isinstance(answers[1], str)
    with pytest.raises(LayoutError, match=r"Not all of the 3 processes came .*; 2 did"):
        raise answers[0]
