"""What this package uses of megatron-core is there, and every call fits, on the installed line."""

from ml_models.megatron_core import check


def test_this_line_has_every_name_and_fits_every_call() -> None:
    uses = check.uses_of("ml_train")
    assert len(uses) > 50
    assert any(use.call is not None for use in uses)
    # What the lines differ in is asked of ml_models.megatron_core.differences, never used here.
    faults = [
        text for text in check.faults_of("ml_train") if "(megatron_core/check.py)" not in text
    ]
    assert faults == []
