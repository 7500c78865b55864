"""ml-models list and show; counts against a built model."""

import json
from typing import Any

import pytest

from ml_models import registry
from ml_models.cli import main
from ml_models.parameters import count_parameters


def test_show_names_sizes_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "grok1-40b"]) == 0
    page = capsys.readouterr().out
    assert "gelu_tanh" in page and "model.py:374" in page
    assert "tied to the embedding" in page


def test_grok_2_has_a_source_for_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "grok2-270b", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert all(choice["source"] != "ours" for choice in facts["fields"].values())
    assert facts["parameters"]["total"] == 269_515_497_472
    assert facts["parameters"]["active"] == 113_822_932_992
    assert main(["list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "grok2-270b" in line)
    assert "269.5 B parameters" in line and "113.8 B active" in line


def test_released_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "grok1-314b", "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert parameters["total"] == 315_684_820_992
    assert count_parameters(registry.get("mixtral-8x7b")).total == 46_702_792_704


def test_unknown_model_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "grok-40b"]) == 2
    assert "known: grok1-314b" in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == registry.names()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("grok1-tiny", {}),
        ("grok1-tiny", {"num_experts": 1, "moe_router_topk": 1}),
        ("grok1-tiny", {"untie_embeddings_and_output_weights": True, "post_norms": False}),
        ("grok2-tiny", {}),
        ("mixtral-tiny", {}),
        ("mixtral-tiny", {"num_experts": 2}),
    ],
    ids=str,
)
def test_counts_are_those_of_the_built_model(
    name: str, changes: dict[str, Any], alone: None
) -> None:
    from ml_models.build import build_model, make_transformer_config

    model = registry.get(name).replace(vocab_size=512, **changes)
    built = build_model(
        model,
        make_transformer_config(model),
        padded_vocab_size=512,
        pre_process=True,
        post_process=True,
    )
    assert sum(p.numel() for p in built.parameters()) == count_parameters(model).total


def test_a_misspelt_flag_names_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["convert", "--form", "xai"])
    assert end.value.code == 2
    assert "unknown flag --form. Did you mean --from?" in capsys.readouterr().err
