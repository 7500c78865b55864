"""Where a thread stands right now: in which collective of which group, or at which line of code.

Another thread reads this from the thread's Python frames, which costs training nothing and works
for every backend. The innermost frame of a thread that waits for other ranks is in
torch.distributed, at a line with .wait(), or at a line that waits for the device, where the
collectives are queued (device_waits.py). Autograd runs the backward pass of a device in threads of
its own, for which the main thread waits: then the position is theirs.
"""

import contextlib
import linecache
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TypeGuard

import torch.distributed as dist

from ml_train.health.hangs.device_waits import runs_backward, waits_for_device

_TORCH = os.path.join("torch", "distributed", "distributed_c10d.py")
_WRAPPERS = (
    os.path.join("torch", "distributed", "c10d_logger.py"),
    os.path.join("torch", "utils", "_device.py"),
    os.path.join("torch_npu", "contrib", "transfer_to_npu.py"),
    os.path.join("ml_models", "platforms", "cpu_device.py"),
    "contextlib.py",
)
"""Files that wrap functions of torch: a frame of theirs may stand in place of its caller's."""
_READABLE_NAMES = {"_coalescing_manager": "coalesced collectives"}
_ROOTS = ("site-packages" + os.sep, os.sep + "src" + os.sep)


@dataclass(frozen=True, kw_only=True)
class Position:
    """Plain values, so that it can be sent to other ranks."""

    text: str
    waits: bool
    """For other ranks."""
    group: str | None = None
    """Name of the process group, where one is known."""
    ranks: tuple[int, ...] = ()
    """Its members' global ranks."""
    number: int | None = None
    """How many collectives the group had before this one, where the backend counts."""
    identity: tuple[int, ...] = ()
    """Equal as long as the thread is in the same call. Means nothing to another process."""
    for_device: bool = False
    """It waits for the device, whose queue holds the collectives of other ranks."""


def position_of(thread: int) -> Position:
    """Of the thread with this identifier, or of the backward pass that it waits for."""
    innermost = sys._current_frames().get(thread)
    if innermost is None:
        return Position(text="ended", waits=False)
    # An autograd thread that runs no Python function has no frame: then the main thread's counts.
    if runs_backward(innermost) and (stacks := _autograd_stacks()):
        positions = [position_of_frames(frames) for frames in stacks]
        return next((position for position in positions if position.waits), positions[0])
    return position_of_frames(_frames_of(innermost))


def _frames_of(innermost: FrameType) -> list[FrameType]:
    frames: list[FrameType] = []
    frame: FrameType | None = innermost
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _autograd_stacks() -> list[list[FrameType]]:
    """Of the threads that Python did not start, which are autograd's."""
    # A thread of C++ that asked for its name is known to Python by a dummy.
    known = {
        thread.ident
        for thread in threading.enumerate()
        if not isinstance(thread, threading._DummyThread)
    }
    frames = sys._current_frames().items()
    return [_frames_of(frame) for thread, frame in frames if thread not in known]


def position_of_error(error: BaseException) -> Position:
    """Where an error was raised."""
    return position_of_frames([frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1])


def position_of_frames(frames: Sequence[FrameType]) -> Position:
    """Of a stack of frames, the innermost first."""
    call, caller = _collective(frames)
    inner = (frame for frame in frames if not frame.f_code.co_filename.endswith(_WRAPPERS))
    frame = next(inner, frames[0])
    if call is not None:
        name, ranks, number = _facts(_group_argument(call))
        at = f", called at {_where(caller)}" if caller is not None else ""
        members = f" (ranks {', '.join(map(str, ranks))})" if ranks else ""
        count = "" if number is None else f" number {number}"
        what = _READABLE_NAMES.get(call.f_code.co_name, call.f_code.co_name)
        return Position(
            text=f"{what}{count} of {name}{members}{at}",
            waits=True,
            group=name,
            ranks=ranks,
            number=number,
            # A frame's address may be used again for the next call, which has another number.
            identity=(id(call), call.f_lasti, number or 0),
        )
    # No collective: a line such as request.wait() still waits for other ranks, for a message.
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    for_device = waits_for_device(frame)
    waits = for_device or ".wait(" in line
    groups = filter(_is_group, frame.f_locals.values()) if waits else iter(())
    group = next(groups, None)
    facts = None if group is None else _facts(group)
    text = f"{_where(frame)}: {line}" if line else _where(frame)
    return Position(
        text=f"{text} (for its device)" if for_device else text,
        waits=waits,
        group=facts[0] if facts else None,
        ranks=facts[1] if facts else (),
        identity=(id(frame), frame.f_lasti),
        for_device=for_device,
    )


def _collective(frames: Sequence[FrameType]) -> tuple[FrameType | None, FrameType | None]:
    """(outermost frame of torch.distributed at the inner end of the stack, its caller)."""
    call = None
    for frame in frames:
        name = frame.f_code.co_filename
        if name.endswith(_TORCH):
            # torch's functions call each other: the outermost has the name that the caller wrote.
            call = frame
        elif not name.endswith(_WRAPPERS) or call is None:
            return call, frame
    return call, None


def _group_argument(call: FrameType) -> dist.ProcessGroup | None:
    """The group that a function of torch.distributed was called with; all ranks by default."""
    values = map(call.f_locals.get, ("group", "pg"))
    return next(filter(_is_group, values), dist.group.WORLD)


def _is_group(value: object) -> TypeGuard[dist.ProcessGroup]:
    return isinstance(value, dist.ProcessGroup)


def _facts(group: dist.ProcessGroup | None) -> tuple[str, tuple[int, ...], int | None]:
    """(name, global ranks, collectives so far) of a group.

    Each fact is asked for on its own and left out where the group does not tell it: backends differ
    in what they keep, and a hang report must not fail.
    """
    name, number = "a process group", None
    ranks: tuple[int, ...] = ()
    with contextlib.suppress(Exception):
        if group is dist.group.WORLD:
            name = "all ranks"
        elif group is not None:
            name = group.group_desc or group.group_name
    with contextlib.suppress(Exception):
        ranks = tuple(dist.get_process_group_ranks(group))
    with contextlib.suppress(Exception):
        if group is not None:
            # Bound in C++ and absent from torch's stubs.
            number = int(group._get_sequence_number_for_group())  # type: ignore[attr-defined,unused-ignore]
    return name, ranks, number


def _where(frame: FrameType) -> str:
    """package/file.py:line in function."""
    # The part below site-packages or src is the same on every host.
    path = frame.f_code.co_filename
    for root in _ROOTS:
        path = path.rpartition(root)[2]
    return f"{path}:{frame.f_lineno} in {frame.f_code.co_name}"
