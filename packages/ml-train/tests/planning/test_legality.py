"""Legal layouts and the nearest of them."""

from __future__ import annotations

from ml_train.config.flags import parse
from ml_train.config.load import LoadedConfig, load_config
from ml_train.planning.legality import (
    layout_of,
    legal_layouts,
    nearest_layouts,
    nearest_worlds,
    words,
)


def loaded(*flags: str) -> LoadedConfig:
    return load_config(parse(["--recipe", "grok1-tiny", *flags]))


def test_every_layout_that_is_listed_is_legal_and_fills_the_world() -> None:
    run = loaded("--global-batch-size", "16")
    layouts = [layout for _, layout in legal_layouts(run.config, run.model, 8)]
    assert len({words(layout) for layout in layouts}) == len(layouts) > 20
    for layout in layouts:
        assert layout.tp * layout.pp * layout.dp == 8
        assert layout.etp * layout.ep * layout.pp * layout.edp == 8


def test_the_nearest_layout_of_a_legal_one_is_itself() -> None:
    run = loaded()
    asked = layout_of(run.config, run.model, 8)
    assert nearest_layouts(run.config, run.model, 8)[0] == asked


def test_a_tensor_parallel_size_that_does_not_divide_has_neighbours() -> None:
    run = loaded("--tensor-model-parallel-size", "3")
    assert [layout.tp for layout in nearest_layouts(run.config, run.model, 8)][0] in (2, 4)


def test_worlds_that_have_a_layout() -> None:
    run = loaded()
    assert nearest_worlds(run.config, run.model, 7) == [4, 8]
