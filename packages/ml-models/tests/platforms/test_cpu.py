"""The cpu platform: each row of its tables, and torch as it was after leaving."""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import run_ranks

from ml_models.errors import PlatformError
from ml_models.megatron_core import lines
from ml_models.platforms import get_platform, patch
from ml_models.platforms.cpu_core import CORE
from ml_models.platforms.cpu_device import TORCH_CUDA

HERE = Path(__file__).parent
LINE = lines.installed_line()


def snapshot() -> dict[str, object]:
    return {
        f"{module.__name__}.{name}": value
        for module in (torch, torch.Tensor, torch.cuda, torch.cuda.random, torch.distributed)
        for name, value in vars(module).items()
        # torch fills these itself, the first time that something is loaded or compiled
        if callable(value) and not name.startswith("_")
    }


def test_torch_is_unchanged_after_leaving() -> None:
    platform = get_platform("cpu")
    platform.apply()
    before = snapshot()
    with pytest.raises(RuntimeError, match="inside"), platform.context():
        assert torch.cuda.current_device() == torch.device("cpu")
        raise RuntimeError("inside")
    after = snapshot()
    assert {name for name in before if after[name] is not before[name]} == set()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.empty(1, device="cuda") if not torch.cuda.is_available() else pytest.skip("a GPU")


def test_apply_is_idempotent() -> None:
    platform = get_platform("cpu")
    first = platform.apply()
    found = {row.target: patch._find(row.target)[2] for row in CORE if LINE in row.lines}
    assert platform.apply() == first
    assert {target: patch._find(target)[2] for target in found} == found
    assert len(first) == len(found)


def test_refuses_when_cuda_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    platform = get_platform("cpu")
    with pytest.raises(PlatformError, match="already uses CUDA"):
        platform.apply()
    with pytest.raises(PlatformError, match="already uses CUDA"), platform.context():
        pass


def test_every_row_gives_its_reason() -> None:
    for row in (*CORE, *TORCH_CUDA):
        assert row.reason
        assert row.lines


def test_an_unknown_core_is_named() -> None:
    row = patch.Patch(target="megatron.core:no.such", make=lambda original: 1, reason="test")
    with pytest.raises(PlatformError, match=r"megatron\.core:no\.such cannot be adapted"):
        patch.apply([row], LINE)


# --- rows of TORCH_CUDA and the device arguments -------------------------------------------------


@pytest.fixture
def inside() -> Iterator[None]:
    platform = get_platform("cpu")
    platform.apply()
    with platform.context():
        yield


@pytest.mark.usefixtures("inside")
def test_device_arguments_mean_the_cpu() -> None:
    for device in ("cuda", "cuda:0", torch.device("cuda"), torch.cuda.current_device()):
        assert torch.zeros(2, device=device).device.type == "cpu"
        assert torch.zeros(2).to(device).device.type == "cpu"
        assert torch.zeros(2).to(device=device).device.type == "cpu"
    assert torch.zeros(2).cuda().device.type == "cpu"
    assert torch.zeros(2).cuda(non_blocking=True).device.type == "cpu"
    assert torch.tensor([1.0], device="cuda").type() == "torch.FloatTensor"


@pytest.mark.usefixtures("inside")
def test_streams_and_events_do_nothing() -> None:
    stream = torch.cuda.Stream(device=torch.cuda.current_device())
    stream.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(stream):
        event = stream.record_event()
    event.record()
    event.wait()
    event.synchronize()
    stream.wait_event(event)
    stream.synchronize()
    torch.cuda.synchronize()
    torch.cuda.set_stream(stream)
    torch.cuda.set_device(0)
    assert torch.cuda.current_stream() == stream
    assert stream.query()
    assert torch.cuda.Event(enable_timing=True).query()


@pytest.mark.usefixtures("inside")
def test_random_states_are_those_of_the_cpu() -> None:
    from megatron.core.tensor_parallel import random as core_random

    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    drawn = torch.rand(3)
    for set_state in (
        torch.cuda.set_rng_state,
        torch.cuda.random.set_rng_state,
        core_random._set_cuda_rng_state,
    ):
        set_state(state)
        assert torch.equal(torch.rand(3), drawn)
    torch.cuda.set_rng_state(state)
    assert torch.equal(core_random._get_cuda_rng_state(), state)
    assert torch.equal(torch.cuda.random.get_rng_state(), state)
    platform = get_platform("cpu")
    platform.set_rng_state({"torch": state})
    assert torch.equal(platform.rng_state()["torch"], state)


def test_memory_is_the_peak() -> None:
    platform = get_platform("cpu")
    platform.reset_peak_memory()
    before = platform.memory_bytes()
    # Larger than the peak of the tests before it, which stays where a kernel refuses the reset.
    block = torch.ones(before + 20_000_000, dtype=torch.uint8)
    del block
    assert platform.memory_bytes() >= before + 20_000_000
    assert platform.peak_tflops(torch.float32) is None


@pytest.mark.parametrize(("system", "peak_bytes"), [("darwin", 70_000), ("freebsd14", 71_680_000)])
def test_memory_without_proc(system: str, peak_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """getrusage(2) of macOS gives bytes, of other systems KiB."""

    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError("/proc/self/status")

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=70_000))
    monkeypatch.setattr(sys, "platform", system)
    assert get_platform("cpu").memory_bytes() == peak_bytes


# --- rows of CORE ---------------------------------------------------------------------------------


def test_split_sizes_are_numpy_on_the_host() -> None:
    get_platform("cpu").apply()
    from megatron.core.transformer.moe import token_dispatcher

    move = token_dispatcher.maybe_move_tensor_to_cpu
    assert move(torch.tensor([1, 2]), as_numpy=True).tolist() == [1, 2]
    assert not torch.is_tensor(move(torch.tensor([1, 2]), as_numpy=True))
    assert torch.is_tensor(move(torch.tensor([1, 2])))
    assert move(None, as_numpy=True) is None


@pytest.mark.skipif(LINE != "0.12", reason="later lines don't call numpy.product")
def test_the_check_of_shards_runs_with_numpy_2() -> None:
    from megatron.core.dist_checkpointing import validation

    get_platform("cpu").apply()
    shards = [
        SimpleNamespace(local_shape=(2, 3), replica_id=0, flattened_range=part)
        for part in (slice(0, 4), slice(4, 6))
    ]
    validation._validate_sharding_for_key_flattened(shards)
    shards[1].flattened_range = slice(4, 5)
    with pytest.raises(Exception, match="dont cover the whole shard"):
        validation._validate_sharding_for_key_flattened(shards)


@pytest.mark.skipif(LINE == "0.12", reason="the 0.12 line has no such name")
def test_router_needs_no_transformer_engine() -> None:
    get_platform("cpu").apply()
    from megatron.core.transformer.moe import moe_utils

    weight, inputs = torch.ones(4, 8), torch.ones(2, 8)
    assert moe_utils.router_gating_linear(inputs, weight, None, torch.float32).shape == (2, 4)


def test_uneven_collectives_equal_the_definition() -> None:
    outputs = run_ranks(HERE / "gloo_worker.py", 3)
    assert [text.strip() for text in outputs] == ["ok"] * 3


# Each way of dividing, both optimizers and both dtypes in two runs; the others take 13 s more.
LAYOUTS = [
    pytest.param(2, "1 1 1 2 plain fp32", marks=pytest.mark.slow),
    (4, "1 2 2 1 plain bf16"),
    pytest.param(2, "1 1 2 1 distributed bf16", marks=pytest.mark.slow),
    (4, "2 1 2 2 distributed fp32"),
]


@pytest.mark.parametrize(("world", "layout"), LAYOUTS)
def test_a_stock_model_trains(world: int, layout: str) -> None:
    losses = json.loads(run_ranks(HERE / "training_worker.py", world, *layout.split())[-1])
    assert losses[0] > losses[1] > losses[2] > 0
