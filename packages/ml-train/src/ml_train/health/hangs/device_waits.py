"""Whether a line of code waits for its device.

A collective of a device is queued, and the host goes on. The host stands where it first needs a
value that the device computes: in `counts.tolist()`, in `torch.masked_select(x, mask)`, in
`event.synchronize()`, in `if flag:`. These are calls into C++, so the innermost Python frame is at
that line. This module reads the instruction at which a frame stands.
"""

import ast
import contextlib
import dis
import linecache
from itertools import islice
from types import FrameType, ModuleType

import torch

# Methods and functions that give the host a value, or a result whose size is such a value. Beside
# tensors, only objects that answer at once have methods of these names.
_READS = frozenset(
    {
        *("tolist", "item", "numpy", "cpu", "to", "copy_", "equal", "is_nonzero", "nonzero"),
        *("masked_select", "bincount", "unique", "_unique2", "unique_consecutive", "unique_dim"),
        *("repeat_interleave", "int", "float", "bool"),
    }
)
# In torch and torch_npu: Event.synchronize, _cuda_synchronize, _npu_synchronize, and so on.
_SYNCHRONIZES = "synchronize"
_BACKWARD = "run_backward"
# Lines that are tried as a statement where Python does not tell which expression stands (3.10).
_LONGEST_STATEMENT = 20
# Instructions that ask a tensor whether it is true. Other objects answer at once.
_ASKS_FOR_TRUTH = ("TO_BOOL", "POP_JUMP", "JUMP_IF", "UNARY_NOT")


def waits_for_device(frame: FrameType) -> bool:
    """Whether the innermost frame of a thread stands at a call that waits for a device.

    It is read while the thread runs, from plain values alone: no code of the thread's objects is
    called.
    """
    operation = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    expressions = _expressions(frame)
    if operation.startswith(_ASKS_FOR_TRUTH) or runs_backward(frame):
        return True
    for expression in expressions:
        if isinstance(expression, ast.Call) and _call_waits(frame, expression):
            return True
        # Memory that is mapped from a file is read by an index as well: only tensors count.
        if isinstance(expression, ast.Subscript) and _is_on_device(frame, expression.value):
            return True
    return False


def runs_backward(frame: FrameType) -> bool:
    """Whether the frame waits for the threads that autograd has for each device."""
    if not any(_name(call.func) == _BACKWARD for call in _calls(frame)):
        return False
    # torch.autograd.graph._engine_run_backward(t_outputs, ...): the losses.
    outputs = frame.f_locals.get("t_outputs", ())
    return any(isinstance(value, torch.Tensor) and _has_device(value) for value in outputs)


def _call_waits(frame: FrameType, call: ast.Call) -> bool:
    name = _name(call.func)
    if name in _READS or name.endswith(_SYNCHRONIZES):
        return True
    # Any operator stands where the device's queue is full.
    if not isinstance(call.func, ast.Attribute):
        return False
    if _is_on_device(frame, call.func.value):
        return True
    root = _root(frame, call.func.value)
    is_torch = isinstance(root, ModuleType) and root.__name__.partition(".")[0] == "torch"
    return is_torch and any(_is_on_device(frame, argument) for argument in call.args)


def _calls(frame: FrameType) -> list[ast.Call]:
    return [node for node in _expressions(frame) if isinstance(node, ast.Call)]


def _name(function: ast.expr) -> str:
    """The last name of what is called: tolist of a.b.tolist."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _root(frame: FrameType, expression: ast.expr) -> object:
    """The value of the first name: torch of torch.nn.functional. None where it is no name."""
    while isinstance(expression, ast.Attribute):
        expression = expression.value
    if not isinstance(expression, ast.Name):
        return None
    name = expression.id
    return frame.f_locals.get(name, frame.f_globals.get(name))


def _is_on_device(frame: FrameType, expression: ast.expr) -> bool:
    value = _root(frame, expression) if isinstance(expression, ast.Name) else None
    return isinstance(value, torch.Tensor) and _has_device(value)


def _has_device(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"


def _expressions(frame: FrameType) -> list[ast.expr]:
    """The expression that the frame evaluates now; before Python 3.11 all of its statement."""
    text, is_exact = _source(frame)
    with contextlib.suppress(SyntaxError, ValueError):
        tree = ast.parse(text.strip(), mode="eval" if is_exact else "exec")
        if isinstance(tree, ast.Expression):
            return [tree.body]
        return [node for node in ast.walk(tree) if isinstance(node, ast.expr)]
    return []


def _source(frame: FrameType) -> tuple[str, bool]:
    """(text of what is evaluated, whether it is that expression alone)."""
    code, number = frame.f_code, frame.f_lineno
    if not hasattr(code, "co_positions"):
        return _statement(linecache.getlines(code.co_filename)[number - 1 :]), False
    first, last, begin, end = next(islice(code.co_positions(), frame.f_lasti // 2, None))
    if first is None or last is None or begin is None or end is None:
        return linecache.getline(code.co_filename, number).strip(), False
    lines = [linecache.getline(code.co_filename, line) for line in range(first, last + 1)]
    # Columns count bytes of UTF-8.
    lines[-1] = lines[-1].encode()[:end].decode(errors="replace")
    lines[0] = lines[0].encode()[begin:].decode(errors="replace")
    # In parentheses an expression may go over several lines.
    return f"({''.join(lines)})", True


def _statement(lines: list[str]) -> str:
    """The statement that `lines` begin with, or their first line where nothing is one."""
    text = ""
    for line in lines[:_LONGEST_STATEMENT]:
        text += line
        # The head of an `if` is no statement by itself; its condition is one.
        statement = text.strip().removeprefix("if ").removeprefix("while ").removesuffix(":")
        with contextlib.suppress(SyntaxError, ValueError):
            ast.parse(statement)
            return statement
    return lines[0].strip() if lines else ""
