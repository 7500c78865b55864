"""verify-layouts: names, refusals, verdicts, and whole runs on two processes each."""

import json
from pathlib import Path

import pytest

from ml_train import cli
from ml_train.checkpoint.compare import Comparison
from ml_train.diagnosis import layouts, verify_layouts
from ml_train.errors import ConfigError

SMALL = (
    *("--recipe", "grok1-tiny", "--seq-length", "32", "--model-override"),
    *("vocab_size=512", "num_layers=4", "hidden_size=64", "ffn_hidden_size=64", "num_experts=4"),
    *("num_attention_heads=4", "num_query_groups=2", "kv_channels=16"),
)


def test_names() -> None:
    assert layouts.parse("pp2-vpp2-distopt") == {"pp": 2, "vpp": 2, "distopt": 1}
    assert layouts.parse("etp4") == {"etp": 4}
    for wrong in ("tp", "tp2-tp2", "tp2x", "", "cp2"):
        with pytest.raises(ConfigError, match="rule: each of tp, pp"):
            layouts.parse(wrong)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layouts", "tp2", "ep3"], "Layout ep3: --expert-model-parallel-size is 3; it must"),
        (["--layouts", "pp2-vpp3"], "Layout pp2-vpp3: 3 virtual stages"),
        (["--layouts", "mbs2"], "Layout mbs2: micro batches of 2; rule: the auxiliary loss"),
        (["--layouts", "uneven"], "Layout uneven: --decoder-first-pipeline-num-layers is 1, but"),
        (["--layouts", "dp8"], "Layout dp8: --global-batch-size is 4; rule"),
        (["--tensor-model-parallel-size", "2"], "chooses --tensor-model-parallel-size itself"),
        (["--load", "x"], "chooses --load itself"),
    ],
)
def test_refused_before_anything_runs(
    words: list[str], says: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_layouts, "start", lambda *_: pytest.fail("a run was started"))
    assert cli.main(["verify-layouts", *SMALL, *words]) != 0
    assert says in capfd.readouterr().err


def test_a_difference_is_found() -> None:
    small = Comparison(key="a", equal=False, elements=4, max_difference=1e-9, relative_l2=1e-7)
    large = Comparison(key="b", equal=False, elements=4, max_difference=1e-4, relative_l2=1e-6)
    gone = Comparison(key="c", equal=False, note="only in x")

    def verdict(*comparisons: Comparison) -> bool:
        differences = verify_layouts._parameters(comparisons)
        return verify_layouts.Result(layout="x", num_processes=2, seconds=0.0, **differences).agrees

    assert verdict(small)
    assert not verdict(small, large)  # 0.1 of the learning rate in one element
    assert not verdict(small, gone)
    assert verify_layouts.relative_difference(1.0, float("nan")) > verify_layouts.TOLERANCE


def run(words: list[str], capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    code = cli.main(["verify-layouts", *SMALL, *words, "--json"])
    captured = capfd.readouterr()
    assert code == 0, captured.out + captured.err
    results: list[dict[str, object]] = json.loads(captured.out)["results"]
    return results


def test_a_layout_under_torchrun(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["ep2-distopt-overlap"]
    results = run(["--work-dir", str(tmp_path), "--layouts", *names], capfd)
    assert [result["layout"] for result in results] == names
    assert (tmp_path / "one-process.jsonl").is_file()


@pytest.mark.slow
def test_the_default_layouts(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(run([], capfd)) == len(layouts.DEFAULT_LAYOUTS)
