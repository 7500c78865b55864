"""megatron-core's fused functions are compiled when they are called, not when they are imported."""

from __future__ import annotations

import subprocess
import sys

from ml_models.megatron_core.deferred_compile import deferring

# The backend "eager" runs functions as they are: a compiler of C++ is not there everywhere.
IMPORT = """
from ml_models.platforms import make_core_importable
make_core_importable()
import sys, torch
compile_of_torch = torch.compile
import megatron.core.models.gpt
from megatron.core.fusions.fused_bias_geglu import geglu
assert torch.compile is compile_of_torch
assert "torch._inductor.compile_fx" not in sys.modules
plain = geglu.__wrapped__
values = torch.linspace(-1, 1, 16).reshape(2, 8)
assert torch.equal(torch.compile(plain, backend="eager")(values), plain(values))
print("passed")
"""


def compiler(calls: list[tuple[str, dict[str, object]]]):
    """A stand-in of torch.compile that notes its calls and negates what a function returns."""

    def compile_now(function, **options):
        calls.append((function.__name__, options))
        return lambda *arguments, **named: -function(*arguments, **named)

    return compile_now


def test_a_function_is_compiled_once_at_its_first_call() -> None:
    calls: list[tuple[str, dict[str, object]]] = []

    @deferring(compiler(calls))
    def add(left: int, right: int = 1) -> int:
        """Adds."""
        return left + right

    assert calls == [] and (add.__name__, add.__doc__) == ("add", "Adds.")
    assert [add(1), add(1, right=2)] == [-2, -3]
    assert calls == [("add", {})]


def test_options_reach_the_compiler() -> None:
    calls: list[tuple[str, dict[str, object]]] = []

    class Router:
        @deferring(compiler(calls))(dynamic=True)
        def top(self, value: int) -> int:
            return value

    assert Router().top(3) == -3
    assert calls == [("top", {"dynamic": True})]


def test_what_is_no_function_is_compiled_at_once() -> None:
    calls: list[tuple[str, dict[str, object]]] = []
    deferring(compiler(calls))(int)
    assert calls == [("int", {})]


def test_importing_megatron_core_loads_no_compiler() -> None:
    """torch.compile is itself afterwards, and a decorated function can be compiled."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "passed", done.stderr
