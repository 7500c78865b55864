"""Every check of this repository: `nox` runs them all, `nox -l` lists them.

Each session builds its environment from the files of this repository alone. torch is always
constrained (constraints/*.txt), so that no session falls for a build with gigabytes of CUDA.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
PACKAGES = ("ml-data", "ml-models", "ml-train")
CORE_LINES = ("0.16.1", "0.12.1")
# What megatron-core 0.12.1 itself imports; the rest of its wheel's requirements is not needed.
CORE_0_12_NEEDS = ("einops", "packaging")
TEST_TOOLS = ("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "psutil>=5.9")
# A pinned formatter: another version may lay out the same code in another way.
RUFF, MYPY = "ruff==0.17.6", "mypy==2.4.1"

nox.options.sessions = [
    "lint", "docs", "types", "tests_data", "tests_core", "isolation", "e2e",
]  # fmt: skip
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "virtualenv"
nox.options.stop_on_first_error = False

MODULE = {package: package.replace("-", "_") for package in PACKAGES}
PATHS = {package: f"packages/{package}" for package in PACKAGES}


def install_packages(
    session: nox.Session, core: str, *packages: str, editable: bool = True
) -> None:
    """Install `packages` by path, in one pip call, on one core line."""
    constraint = f"constraints/core-{core}.txt"
    if packages != ("ml-data",):
        session.install("-c", constraint, "torch", "numpy", *CORE_0_12_NEEDS)
        no_deps = ["--no-deps"] if core == "0.12.1" else []
        session.install("-c", constraint, *no_deps, "megatron-core")
    flags = ["-e"] if editable else [""]
    targets = [part for package in packages for part in (*flags, PATHS[package]) if part]
    session.install("-c", constraint, *targets, *TEST_TOOLS, *test_extras(packages))


def test_extras(packages: tuple[str, ...]) -> list[str]:
    """Peers that the tests compare with."""
    needs = {
        "ml-data": ["fsspec", "zstandard", "moto[s3,server]>=5"],
        "ml-models": ["transformers", "ml-dtypes"],
        "ml-train": [],
    }
    return [need for package in packages for need in needs[package]]


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, and the rules of the house (sizes, dependency direction, ASCII)."""
    session.install(RUFF)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("python", "tools/check_house.py")


@nox.session
def types(session: nox.Session) -> None:
    """mypy strict over each package's src."""
    install_packages(session, "0.16.1", *PACKAGES)
    session.install(MYPY)
    for package in PACKAGES:
        session.run("mypy", f"{PATHS[package]}/src")


@nox.session
def tests_data(session: nox.Session) -> None:
    """The test suite of ml-data, alone in its environment."""
    install_packages(session, "0.16.1", "ml-data")
    run_suites(session, "ml-data")


@nox.session
@nox.parametrize("core", CORE_LINES)
def tests_core(session: nox.Session, core: str) -> None:
    """The test suites of ml-models and ml-train on one megatron-core line, in one environment."""
    install_packages(session, core, *PACKAGES)
    run_suites(session, "ml-models", "ml-train")


def run_suites(session: nox.Session, *packages: str) -> None:
    """pytest per package; what is given behind `--` goes to each. A failure stops no suite."""
    arguments = session.posargs or ["-m", "not slow"]
    failed = []
    for package in packages:
        command = ["python", "-m", "pytest", "-q", f"{PATHS[package]}/tests", *arguments]
        try:
            # Exit code 5: a selection that leaves nothing of one package is no failure.
            session.run(*command, success_codes=[0, 5])
        except CommandFailed:
            failed.append(package)
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
@nox.parametrize("package", PACKAGES)
def isolation(session: nox.Session, package: str) -> None:
    """Build each wheel, install it by path in a fresh environment, import it."""
    needed = {"ml-data": ("ml-data",), "ml-models": ("ml-models",), "ml-train": PACKAGES}[package]
    wheels = Path(tempfile.mkdtemp(dir=session.create_tmp()))
    for name in needed:
        session.run(
            "python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), PATHS[name]
        )
    built = sorted(str(wheel) for wheel in wheels.glob("*.whl"))
    session.install("-c", "constraints/core-0.16.1.txt", *built)
    session.run("python", "tools/check_isolation.py", MODULE[package])


@nox.session(python=["3.10", "3.12", "3.13"], default=False)
def data_matrix(session: nox.Session) -> None:
    """ml-data alone on the other Pythons that it supports (run by name)."""
    session.install(PATHS["ml-data"], *TEST_TOOLS, *test_extras(("ml-data",)))
    session.run("python", "tools/check_isolation.py", "ml_data")
    session.run("python", "-m", "pytest", "-q", "packages/ml-data/tests", "-m", "not slow")


@nox.session(python="3.10", default=False)
def data_lowest(session: nox.Session) -> None:
    """ml-data with the lowest versions that it declares (run by name)."""
    lowest = ("-c", "constraints/ml-data-lowest.txt")
    session.install(*lowest, PATHS["ml-data"], *TEST_TOOLS, *test_extras(("ml-data",)))
    session.run("python", "-m", "pytest", "-q", "packages/ml-data/tests", "-m", "not slow")


@nox.session(default=False)
@nox.parametrize("package", PACKAGES)
def slow(session: nox.Session, package: str) -> None:
    """The long tests: kill points, layouts, fuzzing at depth (run by name)."""
    needed = {"ml-data": ("ml-data",), "ml-models": ("ml-models",), "ml-train": PACKAGES}[package]
    install_packages(session, "0.16.1", *needed)
    if package == "ml-data":
        session.install("ray>=2.40")
    session.run("python", "-m", "pytest", "-q", f"{PATHS[package]}/tests", "-m", "slow")


@nox.session(default=False)
@nox.parametrize("core", CORE_LINES)
def invariance(session: nox.Session, core: str) -> None:
    """The whole invariance set: each layout and setting against one process (run by name)."""
    install_packages(session, core, *PACKAGES)
    tests = f"{PATHS['ml-train']}/tests/invariance"
    session.run("python", "-m", "pytest", "-q", tests, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Every relative link and every file named in the documentation exists."""
    session.run("python", "tools/check_docs.py")


@nox.session
def e2e(session: nox.Session) -> None:
    """The launchers and the thin tools, from data to a resumed run, on the CPU."""
    install_packages(session, "0.16.1", *PACKAGES)
    session.run("python", "-m", "pytest", "-q", "examples/tests")
