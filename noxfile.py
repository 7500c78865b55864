"""Every check of this repository: `nox` runs the ones that must pass, `nox -l` lists them all.

A session builds its environment from the files of this repository alone (tools/environments.py).
Sessions that need a Python or a megatron-core wheel that this machine lacks are skipped by name.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "tools"))
import environments  # noqa: E402
from environments import LINES, PACKAGES, TEST_PEERS, TEST_TOOLS  # noqa: E402

DRIVER = f"{sys.version_info[0]}.{sys.version_info[1]}"
DEFAULT = environments.default_line(DRIVER)
# A pinned formatter: another version may lay out the same code in another way.
RUFF, MYPY = "ruff==0.17.6", "mypy==2.4.1"
NOT_SLOW = ("-m", "not slow")
# Two files of tests at a time: a test of several processes waits for most of its time, and more
# files would starve tests of hangs. A file is not divided: its tests share slow fixtures.
# Files begin in the order of their tests' conftest.py, which knows those that take long.
PYTEST = ("-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")

# Lines that run whole suites, and what the others run: parity, layouts, resume and conversion.
WHOLE_LINES = ("0.19", "0.16")
LINES_OF_EVERY_RUN = ("0.19", "0.18", "0.16", "0.12")
SHORT_SUITES = {
    "ml-models": (
        "grok1/test_parity.py", "grok1/test_layouts.py", "grok2/test_parity.py",
        "grok2/test_layouts.py", "mixtral/test_parity.py",
        "conversion/test_convert.py", "formats/megatron/test_stock.py", "formats/megatron_ranks",
    ),
    "ml-train": ("checkpoint", "invariance"),
}  # fmt: skip

# A device that is compiled here; the session `devices` runs them.
DEVICE_TESTS = "packages/ml-train/tests/devices"

nox.options.sessions = [
    "lint", "docs", "types", "tests_data", "devices",
    *(f"tests_core(core='{core}')" for core in LINES_OF_EVERY_RUN),
    "isolation", "e2e",
]  # fmt: skip
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "venv"
nox.options.stop_on_first_error = False

MODULE = {package: package.replace("-", "_") for package in PACKAGES}
PATHS = {package: f"packages/{package}" for package in PACKAGES}


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, and the rules of the house (sizes, dependency direction, ASCII)."""
    session.install(RUFF)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("python", "tools/check_house.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Every link, file, module and test that the documentation names exists."""
    session.run("python", "tools/check_docs.py")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """mypy strict over each package's src."""
    folder = environments.layer(session, DRIVER, DEFAULT, MYPY)
    for package in PACKAGES:
        run_in(session, folder, "-m", "mypy", f"{PATHS[package]}/src")


@nox.session
def tests_data(session: nox.Session) -> None:
    """The test suite of ml-data, alone in its environment."""
    install_data(session)
    session.run("python", *PYTEST, "packages/ml-data/tests", *posargs(session))


@nox.session(venv_backend="none")
@nox.parametrize("core", list(LINES))
def tests_core(session: nox.Session, core: str) -> None:
    """ml-models' and ml-train's suites on one megatron-core line: whole, or the short form."""
    line = LINES[core]
    folder = environments.layer(session, environments.python_for(session, line, DRIVER), line)
    chosen = [argument for argument in session.posargs if argument.startswith("packages/")]
    suites = {}
    for package in ("ml-models", "ml-train"):
        tests = [f"{PATHS[package]}/tests"]
        if core not in WHOLE_LINES and not session.posargs:
            tests = [f"{tests[0]}/{name}" for name in SHORT_SUITES[package]]
        if chosen:
            tests = [path for path in chosen if path.startswith(f"{PATHS[package]}/")]
        suites[package] = tests
    options = [argument for argument in posargs(session) if argument not in chosen]
    options += ["--ignore", DEVICE_TESTS] if not chosen else []
    run_suites(session, folder, suites, *options)


@nox.session(venv_backend="none")
def devices(session: nox.Session) -> None:
    """ml-train on simulated devices, on one megatron-core line; skipped without a C++ compiler."""
    folder = environments.layer(session, DRIVER, DEFAULT)
    run_in(session, folder, *PYTEST, DEVICE_TESTS, *session.posargs)


@nox.session
@nox.parametrize("package", ["ml-data", "ml-train"])
def isolation(session: nox.Session, package: str) -> None:
    """Build each wheel, install it by path in a fresh environment, import it.

    The session of ml-train checks ml-models on its way, before ml-data and ml-train are installed:
    torch is then unpacked once for both.
    """
    steps = [["ml-data"]] if package == "ml-data" else [["ml-models"], ["ml-data", "ml-train"]]
    wheels = Path(tempfile.mkdtemp(dir=session.create_tmp()))
    session.run("python", "-m", "pip", "uninstall", "-q", "-y", *PACKAGES)
    for names in steps:
        for name in names:
            command = ("wheel", "-q", "--no-deps", "-w", str(wheels), PATHS[name])
            session.run("python", "-m", "pip", *command)
        built = sorted(str(wheel) for wheel in wheels.glob("*.whl"))
        session.install("-c", "constraints/default.txt", *built)
        session.run("python", "tools/check_isolation.py", MODULE[names[-1]])


@nox.session(venv_backend="none")
def e2e(session: nox.Session) -> None:
    """The launchers, the thin tools and the documentation's commands, on the CPU."""
    folder = environments.layer(session, DRIVER, DEFAULT)
    run_in(session, folder, *PYTEST, "examples/tests")


@nox.session(venv_backend="none", default=False)
def default_torch(session: nox.Session) -> None:
    """The main job on Python 3.12 with the torch that the index gives to most people (by name)."""
    python = environments.find_python("3.12") or session.skip("no Python 3.12 runs here")
    work = session.create_tmp()
    env = {"PYTHON": python, "VENV": f"{work}/venv", "WORK": f"{work}/quickstart"}
    session.run("bash", "examples/quickstart.sh", "--short", env=env, external=True)


@nox.session(python=False, venv_backend="none", default=False)
@nox.parametrize("change", ["core", "python"])
def verify_upgrade(session: nox.Session, change: str) -> None:
    """A run begun in one environment and resumed in another, and the other way (by name).

    core: megatron-core 0.16 and 0.19. python: 0.19 under Python 3.12 and 3.13, whose pickles name
    the module of a path differently.
    """
    if change == "core":
        lines = [LINES["0.16"], LINES["0.19"]]
        versions = [environments.python_for(session, line, DRIVER) for line in lines]
    else:
        lines, versions = [LINES["0.19"]] * 2, ["3.12", "3.13"]
        if missing := [version for version in versions if not environments.find_python(version)]:
            session.skip(f"no Python {' and no '.join(missing)} runs here")
    pairs = zip(versions, lines, strict=True)
    first, second = (environments.layer(session, *pair) for pair in pairs)
    tests = ("packages/ml-train/tests/diagnosis/test_verify_upgrade.py", *session.posargs)
    for folder, other in ((first, second), (second, first)):
        env = {"ML_TRAIN_OTHER_PYTHON": str(other / "bin" / "python")}
        run_in(session, folder, *PYTEST, *tests, env=env)


@nox.session(python=False, venv_backend="none", default=False)
@nox.parametrize("version", ["3.10", "3.12", "3.13"])
def data_matrix(session: nox.Session, version: str) -> None:
    """ml-data alone on the other Pythons that it supports (by name)."""
    folder = fresh(session, version)
    needs = (*TEST_TOOLS, *TEST_PEERS["ml-data"])
    environments.pip_install(session, folder / "bin/python", PATHS["ml-data"], *needs)
    run_in(session, folder, "tools/check_isolation.py", "ml_data")
    run_in(session, folder, *PYTEST, "packages/ml-data/tests", *NOT_SLOW)


@nox.session(python=False, venv_backend="none", default=False)
@nox.parametrize("package", ["ml-data", "ml-train"])
def lowest(session: nox.Session, package: str) -> None:
    """The lowest versions that the packages declare, on Python 3.10 (by name).

    ml-train stands for ml-models too: both suites run in the environment of all three packages.
    """
    tested = ("ml-data",) if package == "ml-data" else ("ml-models", "ml-train")
    packages = tuple(dict.fromkeys(("ml-data", *tested)))
    python = fresh(session, "3.10") / "bin/python"
    bounds = f"constraints/{package}-lowest.txt"
    needs = environments.third_party(packages, tested)
    if package == "ml-data":
        needs += environments.extras(package)
    else:
        # The oldest transformers that ml-models' tests compare with reads no model without it.
        needs.append("accelerate")
    environments.pip_install(session, python, "-c", bounds, *needs)
    if package == "ml-train":
        environments.install_core(session, python, LINES["0.12"], bounds)
    paths = [PATHS[name] for name in packages]
    environments.pip_install(session, python, "--no-deps", *paths)
    suites = {name: [f"{PATHS[name]}/tests"] for name in tested}
    options = (*posargs(session), "--ignore", DEVICE_TESTS)
    run_suites(session, python.parent.parent, suites, *options)


@nox.session(python=False, venv_backend="none", default=False)
def newest(session: nox.Session) -> None:
    """Every suite with the newest torch, numpy, pyarrow and transformers there are (by name)."""
    version = next((v for v in ("3.13", "3.12") if environments.find_python(v)), None)
    if version is None:
        session.skip("no Python 3.13 or 3.12 runs here")
    folder = fresh(session, version)
    peers = [need for name in PACKAGES for need in TEST_PEERS[name]]
    paths = [PATHS[name] for name in PACKAGES]
    command = ("--upgrade", *paths, *TEST_TOOLS, *peers)
    environments.pip_install(session, folder / "bin/python", *command)
    run_in(session, folder, "-m", "pip", "list")
    suites = {name: [f"{PATHS[name]}/tests"] for name in PACKAGES}
    run_suites(session, folder, suites, *posargs(session))


@nox.session(venv_backend="none", default=False)
@nox.parametrize("package", [*PACKAGES, "examples"])
def slow(session: nox.Session, package: str) -> None:
    """The long tests: kill points, layouts, fuzzing at depth, the device benchmark (by name)."""
    extra = ("ray>=2.40",) if package == "ml-data" else ()
    folder = environments.layer(session, DRIVER, DEFAULT, *extra)
    run_in(session, folder, *PYTEST, f"{PATHS.get(package, package)}/tests", "-m", "slow")


@nox.session(venv_backend="none", default=False)
@nox.parametrize("core", list(LINES))
def invariance(session: nox.Session, core: str) -> None:
    """The whole invariance set: each layout and setting against one process (by name)."""
    line = LINES[core]
    folder = environments.layer(session, environments.python_for(session, line, DRIVER), line)
    tests = f"{PATHS['ml-train']}/tests/invariance"
    run_in(session, folder, *PYTEST, tests, *session.posargs)


def posargs(session: nox.Session) -> tuple[str, ...]:
    """pytest's arguments: what is given behind `--`, else all but the slow tests."""
    return tuple(session.posargs) or NOT_SLOW


def run_suites(
    session: nox.Session, folder: Path, suites: dict[str, list[str]], *options: str
) -> None:
    """Run each package's tests; a suite that fails does not keep the next one from running."""
    failed = []
    for package, tests in suites.items():
        try:
            # Exit code 5: a selection that leaves nothing of one package is no failure.
            if tests:
                run_in(session, folder, *PYTEST, *tests, *options, success_codes=(0, 5))
        except CommandFailed:
            failed.append(package)
    if failed:
        session.error(f"failed: {', '.join(failed)}")


def install_data(session: nox.Session) -> None:
    """ml-data and its tests' needs in the session's own environment."""
    needs = (*TEST_TOOLS, *TEST_PEERS["ml-data"])
    session.install("-c", "constraints/base.txt", "-e", PATHS["ml-data"], *needs)


def fresh(session: nox.Session, version: str) -> Path:
    """A new environment of Python `version` for this session alone."""
    python = environments.find_python(version) or session.skip(f"no Python {version} runs here")
    folder = Path(session.create_tmp()) / f"python-{version}"
    session.run(python, "-m", "venv", "--clear", str(folder), external=True)
    return folder


def run_in(session: nox.Session, folder: Path, *arguments: str, **options: object) -> None:
    """Run Python in an environment of tools/environments.py, whose commands come first in PATH."""
    env = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    env |= options.pop("env", {})  # type: ignore[arg-type]
    session.run(str(folder / "bin" / "python"), *arguments, env=env, external=True, **options)
