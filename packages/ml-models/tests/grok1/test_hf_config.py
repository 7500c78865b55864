"""What hpcai-tech's config.json cannot say."""

from pathlib import Path

from model_checks.opening import open_reference
from model_checks.references import DATA

from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source


def test_what_hpcais_code_cannot_compute_is_said(tmp_path: Path) -> None:
    """The guide's model in hpcai-tech's format: its code would give other numbers in silence."""
    source = open_reference("hf_a")
    plain = convert(open_source("huggingface", DATA / "hf_a", variant="hpcai"), "huggingface",
                    tmp_path / "same")  # fmt: skip
    assert plain["notes"] == []
    source.model = source.model.replace(
        activation="silu", attention_logit_cap=None, renormalize_topk=True
    )
    report = convert(source, "huggingface", tmp_path / "guide")
    (note,) = report["notes"]
    for part in ("activation is silu (there gelu_erf)", "renormalize_topk is True", "cap is none"):
        assert part in note
    assert open_source("huggingface", tmp_path / "guide").model == source.model
