"""The search against a slow one that builds every layout."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from searched_runs import MODELS, loaded, planning, space_of

from ml_models.platforms.devices import Device, device
from ml_train.cli import main
from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.planning.plan import plan_ranks
from ml_train.planning.search import search as searching
from ml_train.planning.search.ranking import timed
from ml_train.planning.search.reasons import kind_of
from ml_train.planning.search.search import SearchResult, search
from ml_train.planning.search.space import Space
from ml_train.planning.time.cluster import Cluster
from ml_train.planning.time.rates import rates_of

VARIED = ("tp", "ep", "recompute")
WORLD = 2
RUN = loaded("grok1", "--micro-batch-size", "4", "--bf16")


def small_device(memory: float) -> Device:
    return dataclasses.replace(device("h100"), memory_bytes=memory)


def searched(memory: float) -> SearchResult:
    chosen = small_device(memory)
    cluster = Cluster(device=chosen, devices_per_node=WORLD, rates=rates_of(chosen.name))
    space = Space(world=WORLD, devices_per_node=WORLD, vary=VARIED)
    with planning() as platform:
        return search(RUN.config, RUN.model, space, cluster, platform, progress=lambda *_: None)


@pytest.fixture(scope="module")
def every() -> dict[str, tuple[float, int]]:
    """Layout -> (seconds of a step, peak of the fullest built rank)."""
    chosen = small_device(80e9)
    cluster = Cluster(device=chosen, devices_per_node=WORLD, rates=rates_of(chosen.name))
    figures = {}
    with planning() as platform:
        layouts = space_of(RUN, WORLD, vary=VARIED, devices_per_node=WORLD)
        for item in timed(layouts, RUN.model, cluster):
            candidate = item.candidate
            classes = plan_ranks(
                candidate.config,
                RUN.model,
                candidate.layout,
                platform,
                progress=lambda _: None,
            )
            peak = max(ranks.plan.peak for ranks in classes)
            figures[candidate.title] = (item.time.expected, peak)
    return figures


def test_the_best_is_the_fastest_that_fits(every: dict[str, tuple[float, int]]) -> None:
    peaks = sorted(peak for _, peak in every.values())
    memory = peaks[len(peaks) // 3]
    result = searched(memory)
    fitting = {title: seconds for title, (seconds, peak) in every.items() if peak <= memory}
    assert 0 < len(fitting) < len(every)
    best = [built.timed.candidate.title for built in result.best]
    assert best[0] == min(fitting, key=lambda title: fitting[title])
    assert [fitting[title] for title in best] == sorted(fitting[title] for title in best)
    for built in result.best:
        assert built.peak == every[built.timed.candidate.title][1]
        assert built.margin == memory - built.peak >= 0
    # Every layout is accounted for: among the best, or by a reason.
    assert result.seen == len(every)
    losers = [reason for reason in result.reasons if "not legal" not in reason.text]
    assert result.seen == len(best) + sum(reason.number for reason in losers)


def test_where_none_fits_the_nearest_is_told(every: dict[str, tuple[float, int]]) -> None:
    result = searched(min(peak for _, peak in every.values()) - 1)
    assert not result.best
    assert result.nearest is not None
    assert result.nearest.peak == min(peak for _, peak in every.values())
    assert result.nearest.margin == -1


def test_ten_layouts_are_built_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "BEST", 2)
    result = searched(80e9)
    assert len(result.best) == 2
    assert any("take longer, mostly by" in reason.text for reason in result.reasons)
    assert "TP" in result.reasons[0].line()


def test_messages_of_one_rule_are_one_reason() -> None:
    first = "16 is not a multiple of 3. Choose one of 1, 2, 4."
    assert kind_of(first) == kind_of("8 is not a multiple of 5. Choose one of 1, 2, 4, 8.")


FLAGS = ("--global-batch-size", "48", "--device", "h100", "--nproc-per-node", "2")


def plan(*words: str) -> int:
    return main(["plan", *MODELS["grok1"], *FLAGS, *words])


def test_the_command_writes_the_best_and_says_why_others_lose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "BEST", 2)
    path = tmp_path / "best.toml"
    assert plan("--json", "--write", str(path), "--search", "tp", "ep") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["seen"] == 3
    best = document["best"][0]
    assert best["margin_bytes"] == 80_000_000_000 - best["peak_bytes"]
    assert best["step_seconds"]["low"] < best["step_seconds"]["high"]
    again = load_config(parse(["--recipe", str(path)]))
    assert again.config.parallel.tensor_model_parallel_size == best["layout"]["tp"]
    words = [word for flag in best["flags"] for word in flag]
    assert load_config(parse(words)).config == again.config


def test_without_a_fitting_layout_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(
        "memory_bytes = 1000\ntflops = { bfloat16 = 500.0, float32 = 50.0 }\n"
        "memory_bytes_per_second = 3e12\nintra_node_bytes_per_second = 200e9\n"
        "inter_node_bytes_per_second = 25e9\ndevices_per_node = 8\n"
    )
    path = tmp_path / "best.sh"
    words = ["plan", *MODELS["grok1"], "--global-batch-size", "48", "--device", str(tiny)]
    words += ["--nproc-per-node", "2", "--write", str(path)]
    assert main([*words, "--search", "ep"]) == 1
    shown = capsys.readouterr()
    assert "None fits. The nearest, TP1" in shown.out
    assert "nothing fits, so that nothing was written; rule:" in shown.err
    assert not path.exists()


def test_devices_without_a_legal_layout_name_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["plan", *MODELS["grok1"], "--global-batch-size", "4", "--device", "h100"]
    assert main([*words, "--nproc-per-node", "7", "--search"]) == 2
    shown = capsys.readouterr().err
    assert "7 devices have no legal layout" in shown
    assert "rule: a multiple of" in shown
    assert "Take 4 or 8 devices." in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--search", "tq"), "invalid choice: 'tq'"),
        (("--search", "--write", "run.yaml"), "rule: a launcher FILE.sh or a recipe FILE.toml"),
    ],
)
def test_bad_words_are_refused_before_the_search(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(*words) == 2
    assert message in capsys.readouterr().err


def test_an_interrupt_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ml_train.planning.search.search.catalogue", interrupted)
    assert plan("--search") == 130
