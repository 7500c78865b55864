"""The device that a run is planned for: a row of ml_models' table, or a file of the user's."""

import argparse
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from ml_models.nearest import did_you_mean
from ml_models.platforms import platform_names
from ml_models.platforms.devices import FIGURES, Device, device, devices
from ml_train.errors import ConfigError
from ml_train.planning.calibration import device_file
from ml_train.planning.calibration.device_file import KEY
from ml_train.planning.calibration.measured import Measured
from ml_train.text_files import toml_document

_PLATFORM = "cuda"
"""Of a device file that names none."""

OPTIONAL = ("inter_node_bytes_per_second",)


def add_target_flags(parser: argparse.ArgumentParser, *, device_required: bool = True) -> None:
    """--device, --nnodes and --nproc-per-node: the cluster that a command looks ahead to."""
    names = ", ".join(devices())
    parser.add_argument(
        "--device",
        required=device_required,
        help=f"The device: {names}, ascend-910b, or a FILE.toml with such figures.",
    )
    parser.add_argument("--nnodes", type=int, default=1, help="Nodes of the job (default: 1).")
    parser.add_argument(
        "--nproc-per-node",
        type=int,
        default=None,
        help="Devices that a node gives to the job. Default: those of the device's node.",
    )


def target_device(name: str) -> Device:
    """The row called `name`, or the figures of a file that ends in .toml.

    Raises UnknownDeviceError for a name and ConfigError for a file.
    """
    return _from_file(Path(name)) if name.endswith(".toml") else device(name)


def platform_of(device: Device) -> str:
    """Type of torch's device, which decides the forms of the kernels."""
    return device.platform or _PLATFORM


def measured_on(name: str) -> tuple[Measured, ...]:
    """What a calibration measured on the device; empty for a name, and a file without [[measured]].

    Raises ConfigError.
    """
    if not name.endswith(".toml"):
        return ()
    path = Path(name)
    figures = toml_document(path, "--device")
    return device_file.read_measured(figures[KEY], path) if KEY in figures else ()


def _from_file(path: Path) -> Device:
    figures = toml_document(path, "--device")
    if KEY in figures:
        device_file.read_measured(figures.pop(KEY), path)
    missing = [name for name in FIGURES if name not in figures and name not in OPTIONAL]
    if missing:
        raise ConfigError(
            f"{path} lacks {', '.join(missing)}; rule: a device has {', '.join(FIGURES)}, in "
            "bytes, bytes per second, and TFLOP/s by dtype, for example "
            "tflops = { bfloat16 = 989.0 }."
        )
    known = [field.name for field in dataclasses.fields(Device) if field.name != "name"]
    for name, value in figures.items():
        if name not in known:
            raise ConfigError(f"{path}: {name} is unknown.{did_you_mean(name, known)}")
        _check(path, name, value)
        if name == "platform":
            _check_platform(path, value)
    texts = {"title": path.stem, "names": (), "source": str(path), **figures}
    return Device(name=path.stem, **texts)


def _check_platform(path: Path, platform: object) -> None:
    """It decides the forms of the kernels, so that a wrong one gives figures of other forms."""
    known = platform_names()
    if platform not in known:
        raise ConfigError(
            f"{path}: platform is {platform!r}; rule: one of {', '.join(known)}, the type of "
            "torch's device."
        )


def _check(path: Path, name: str, value: object) -> None:
    if name not in FIGURES:
        return
    values = value if isinstance(value, Mapping) else {"": value}
    if isinstance(value, Mapping) != (name == "tflops") or not values:
        raise ConfigError(f"{path}: {name} is {value!r}; rule: {_rule(name)}.")
    for number in values.values():
        # Python counts True as a number.
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        whole = isinstance(number, int) or name != "devices_per_node"
        if not (is_number and whole and 0 < cast(float, number) < math.inf):
            raise ConfigError(f"{path}: {name} is {value!r}; rule: {_rule(name)}.")


def _rule(name: str) -> str:
    if name == "tflops":
        return "a table of dtypes with a number above 0, such as { bfloat16 = 989.0 }"
    return "a whole number above 0" if name == "devices_per_node" else "a number above 0"
