"""Tables of environment variables: which rows a run needs, and that the user's values win."""

import pytest

from ml_models.platforms.variables import CUDA, NPU, Run, Variable, for_run


def decided(table: tuple[Variable, ...], environment: dict[str, str] | None = None, **run: object):
    return dict(for_run(table, Run(**run), environment or {}).values)


def test_one_hardware_queue_where_core_overlaps_by_order() -> None:
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in decided(CUDA)
    assert decided(CUDA, tensor_model_parallel_size=4)["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert decided(NPU, tensor_model_parallel_size=4)["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"


@pytest.mark.parametrize(
    ("torch", "name"),
    [
        ((2, 6), "PYTORCH_CUDA_ALLOC_CONF"),
        ((2, 8), "PYTORCH_CUDA_ALLOC_CONF"),
        # torch warns of the old name from here on.
        ((2, 9), "PYTORCH_ALLOC_CONF"),
        ((2, 13), "PYTORCH_ALLOC_CONF"),
    ],
)
def test_the_allocator_of_cuda_by_the_version_of_torch(torch: tuple[int, int], name: str) -> None:
    assert decided(CUDA, torch=torch) == {name: "expandable_segments:True"}
    for own in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        assert decided(CUDA, {own: "backend:native"}, torch=torch) == {}


@pytest.mark.parametrize(
    ("seconds", "connect", "execute", "event"),
    [
        (600, "600", "600", "632"),
        (3, "120", "3", "35"),  # HCCL accepts 120 s and more
        (2.5, "120", "3", "35"),  # whole seconds
        (604800, "7200", "604800", "604832"),
    ],
)
def test_hccl_timeouts_agree_with_the_run(
    seconds: float, connect: str, execute: str, event: str
) -> None:
    values = decided(NPU, timeout_seconds=seconds)
    assert values["HCCL_CONNECT_TIMEOUT"] == connect
    assert values["HCCL_EXEC_TIMEOUT"] == execute
    assert values["HCCL_EVENT_TIMEOUT"] == event


def test_a_user_who_waits_for_ever_gets_no_event_timeout() -> None:
    assert "HCCL_EVENT_TIMEOUT" not in decided(NPU, {"HCCL_EXEC_TIMEOUT": "0"})


def test_graphs_keep_the_default_task_queue() -> None:
    assert "TASK_QUEUE_ENABLE" not in decided(NPU, compiled=True)
    assert decided(NPU)["TASK_QUEUE_ENABLE"] == "2"


@pytest.mark.parametrize("table", [CUDA, NPU])
def test_every_row_can_be_overridden_and_says_why(table: tuple[Variable, ...]) -> None:
    run = Run(tensor_model_parallel_size=2)
    for row in table:
        own = for_run(table, run, {row.name: ""})
        assert row.name not in own.values and own.kept[row.name] == ""
        assert len(row.reason) > 40 and row.shown and row.link.startswith("https://")
