"""The suggestion for a misspelt name."""

from ml_models.nearest import did_you_mean, nearest_name

NAMES = ("grok1-314b", "grok1-40b", "mixtral-8x7b")


def test_the_nearest_of_several() -> None:
    assert nearest_name("grok-40b", NAMES) == "grok1-40b"
    assert did_you_mean("grok-40b", NAMES) == " Did you mean 'grok1-40b'?"


def test_nothing_is_near() -> None:
    assert nearest_name("llama", NAMES) is None
    assert did_you_mean("llama", NAMES) == ""
    assert nearest_name("mix", NAMES, cutoff=0.3) == "mixtral-8x7b"
