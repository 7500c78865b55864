"""The file of a calibration: written, read as a device, refused where it is not one."""

from __future__ import annotations

from pathlib import Path

import pytest
from round_device import curve, measured

from ml_train.errors import ConfigError
from ml_train.planning.calibration import device_file
from ml_train.planning.calibration.figures import figures_of
from ml_train.planning.calibration.measured import Measured
from ml_train.planning.target import measured_on, target_device

MEASURED = (measured(1, host_seconds_per_kernel=1.25e-5), measured(2), measured(4))


def write(path: Path) -> Path:
    figures = figures_of(MEASURED, platform="cpu", memory_bytes=6e9)
    device_file.write(path, figures, MEASURED)
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "here.toml")
    assert measured_on(str(path)) == MEASURED
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_a_device_with_the_figures_that_a_maker_states(tmp_path: Path) -> None:
    device = target_device(str(write(tmp_path / "here.toml")))
    assert (device.name, device.memory_bytes, device.devices_per_node) == ("here", 6e9, 4)
    assert device.tflops == pytest.approx({"float32": 0.01, "bfloat16": 0.005})
    assert device.memory_bytes_per_second == pytest.approx(1e9)
    assert device.intra_node_bytes_per_second == pytest.approx(1e9)
    assert "--calibrate" in device.source


def test_a_device_without_measurements(tmp_path: Path) -> None:
    assert measured_on("h100") == ()
    text = "\n".join(write(tmp_path / "here.toml").read_text().split("[[measured]]")[:1])
    bare = tmp_path / "bare.toml"
    bare.write_text(text)
    assert target_device(str(bare)).devices_per_node == 4
    assert measured_on(str(bare)) == ()


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("processes = 2", "processes = 1", "the same number of processes"),
        ("processes = 2", "processes = true", "processes is True; rule: a whole number"),
        ("asynchronous = false", "asynchronous = 0", "asynchronous is 0; rule: true or false"),
        ("asynchronous = false", "", "lacks asynchronous"),
        ("asynchronous = false", "asynchronous = false\nthreads = 1", "threads is unknown"),
        ("host_seconds_per_kernel = 1.25e-05", "host_seconds_per_kernel = -1", "a number from 0"),
        ("in_step_factor = 1.0", "in_step_factor = 0", "in_step_factor is 0; rule: a number above"),
        ("sizes = [1, 4096]", "sizes = [4096, 1]", "rule: rising numbers"),
        ("sizes = [1, 4096]", "sizes = [1, 2, 4096]", "seconds is .*rule: a list of 27"),
        ("rows = [[1.0, 1e-09]", "rows = [[1.0, 0.0]", "rows is 0.0; rule: a number above 0"),
        ("rows = [[1.0, 1e-09]", "rows = [[1.0, nan]", "rows is nan; rule"),
        ("rows = [[1.0, 1e-09]", "rows = [[1.0]", "rule: a list of 2"),
        ("rows = ", "columns = ", "columns is unknown"),
        ("[measured.messages.2]", "[measured.messages.two]", "messages.two is unknown"),
        ("products.float32]", "products.float16]", "lacks float32"),
    ],
)
def test_a_file_that_no_calibration_wrote_is_refused_in_a_sentence(
    tmp_path: Path, before: str, after: str, words: str
) -> None:
    path = write(tmp_path / "here.toml")
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    for read in (target_device, measured_on):
        with pytest.raises(ConfigError, match=words) as caught:
            read(str(path))
        assert str(caught.value).count("\n") == 0
        assert str(path) in str(caught.value)


def test_measurements_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "here.toml"
    path.write_text("measured = 3\n")
    with pytest.raises(ConfigError, match="must be a list of tables"):
        measured_on(str(path))


def test_only_a_new_file_or_one_of_a_calibration_is_written(tmp_path: Path) -> None:
    own = write(tmp_path / "own.toml")
    device_file.check_target(own)
    device_file.check_target(tmp_path / "new.toml")
    other = tmp_path / "other.toml"
    other.write_text("memory_bytes = 1e9\n")
    for path, words in (
        (other, "was not written by a calibration"),
        (tmp_path / "new.json", "must end in .toml"),
        (tmp_path / "absent" / "new.toml", "does not exist"),
    ):
        with pytest.raises(ConfigError, match=words):
            device_file.check_target(path)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match="is not a file"):
        device_file.check_target(tmp_path / "folder.toml")
    assert other.read_text() == "memory_bytes = 1e9\n"


@pytest.mark.parametrize(("processes", "taken"), [(1, 1), (2, 2), (3, 4), (4, 4), (16, 4)])
def test_the_figures_of_as_many_processes_or_the_next_larger_number(
    processes: int, taken: int
) -> None:
    assert device_file.for_processes(MEASURED, processes).processes == taken


def test_without_a_second_process_messages_are_said_to_go_through_memory() -> None:
    alone: tuple[Measured, ...] = (measured(1),)
    figures = figures_of(alone, platform="cpu", memory_bytes=1e9)
    assert figures["intra_node_bytes_per_second"] == figures["memory_bytes_per_second"]
    assert curve().points[-1][0] / curve().points[-1][1] == figures["memory_bytes_per_second"]
