"""verify-upgrade: verdicts, and whole runs under this Python and under another environment's.

The environment variable ML_TRAIN_OTHER_PYTHON names the other one (a folder or a Python) with
another line of megatron-core; without it those tests are skipped.
"""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest

from ml_train import cli
from ml_train.checkpoint.compare import Comparison
from ml_train.diagnosis.resumed_runs import Row
from ml_train.diagnosis.verify_upgrade import Result, differences

OTHER = os.environ.get("ML_TRAIN_OTHER_PYTHON")
SMALL = (
    *(
        "--recipe",
        "grok1-tiny",
        "--seq-length",
        "32",
        "--global-batch-size",
        "2",
        "--model-override",
    ),
    *("vocab_size=512", "num_layers=4", "hidden_size=64", "ffn_hidden_size=64", "num_experts=4"),
    *("num_attention_heads=4", "num_query_groups=2", "kv_channels=16"),
    *("--pipeline-model-parallel-size", "1"),
)
ALONE = ("--tensor-model-parallel-size", "1", "--expert-model-parallel-size", "1")


def row(differing: int = 0, relative: float = 0.0) -> Row:
    return Row(what="loss", compared=6, differing=differing, largest=0.0, relative=relative)


def tensor(key: str, relative: float, *, note: str = "") -> Comparison:
    elements = 0 if note else 4
    return Comparison(
        key=key, equal=False, elements=elements, differing=1, relative_l2=relative, note=note
    )


EQUAL = Comparison(key="a", equal=True, elements=4)


def test_equal_to_the_bit() -> None:
    result = Result(comparisons=[EQUAL], losses=row())
    assert result.identical and result.faults(0.0) == [] and differences(result) == ""


def test_rounding_is_told_tensor_by_tensor_and_passes() -> None:
    result = Result(comparisons=[EQUAL, tensor("b", 1e-8), tensor("c", 1e-6)], losses=row(1, 1e-7))
    assert not result.identical and result.faults(1e-5) == []
    assert [entry.key for entry in result.differing] == ["c", "b"]
    lines = differences(result).splitlines()
    assert lines[1].split() == ["c", "4", "1", "0.0e+00", "1.0e-06"]
    document = result.to_dict(1e-5)
    assert document["agrees"] and not document["identical"]
    assert [entry["key"] for entry in document["differing"]] == ["c", "b"]
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize(
    ("comparisons", "losses", "says"),
    [
        ([tensor("b", 1e-4)], row(), "b: relative difference 1.0e-04"),
        ([tensor("b", 1e-8), tensor("c", float("nan"))], row(), "c: relative difference nan"),
        ([tensor("b", 0.0, note="only in x")], row(), "b: only in x"),
        ([tensor("random states", 0.0, note="torch")], row(), "random states: torch"),
        ([EQUAL], row(2, float("inf")), "loss: relative difference inf"),
    ],
)
def test_what_is_more_than_rounding(comparisons: list[Comparison], losses: Row, says: str) -> None:
    faults = Result(comparisons=comparisons, losses=losses).faults(1e-5)
    assert len(faults) == 1 and faults[0].startswith(says)
    assert not Result(comparisons=comparisons, losses=losses).to_dict(1e-5)["agrees"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tolerance", "-1"], "--tolerance is -1"),
        (["--tolerance", "nan"], "--tolerance is nan"),
        (["--verify-steps", "0"], "--verify-steps is 0"),
        (["--form", "x"], "Did you mean --from?"),
    ],
)
def test_bad_usage(words: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["verify-upgrade", *SMALL, "--from", "absent", "--to", "absent", *words]
    assert cli.main(given) == 2
    assert says in capfd.readouterr().err


def test_help_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["verify-upgrade", "--help"])
    text = " ".join(capfd.readouterr().out.split())
    assert "example: ml-train verify-upgrade --recipe grok1-tiny --from" in text


def verify(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["verify-upgrade", *SMALL, "--verify-steps", "2", *words])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_the_same_python_twice(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--from", sys.prefix, "--to", sys.executable, "--work-dir", str(tmp_path)]
    code, out, err = verify(capfd, *ALONE, *words)
    assert code == 0, out + err
    assert "to the bit" in err and "both have the same versions" in err
    assert "random states" in out and "loss, aux, norm (2 steps)" in out
    assert (tmp_path / "to" / "iter_0000004").is_dir()


@pytest.mark.slow
def test_another_arithmetic_is_found(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A Python that trains with another epsilon stands in for a library that computes otherwise."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$*" in *pretrain*) set -- "$@" --adam-eps 1e-5;; esac\n'
        f'exec {shlex.quote(sys.executable)} "$@"\n'
    )
    python.chmod(0o755)
    code, out, err = verify(capfd, *ALONE, "--from", sys.executable, "--to", str(python))
    assert code == 1 and "DIFFERENT: " in err
    assert "decoder.layers.0.mlp.experts.linear_fc1.weight" in out


@pytest.mark.skipif(OTHER is None, reason="ML_TRAIN_OTHER_PYTHON names no other environment")
def test_another_environment(capfd: pytest.CaptureFixture[str]) -> None:
    """On two processes with the distributed optimizer in bf16: equal to the bit."""
    layout = ("--tensor-model-parallel-size", "1", "--expert-model-parallel-size", "2")
    words = ("--from", sys.executable, "--to", str(OTHER), "--bf16", "--use-distributed-optimizer")
    code, out, err = verify(capfd, *layout, *words)
    assert code == 0, out + err
    assert "to the bit" in err and "main parameters" in out
