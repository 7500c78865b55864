"""Which sink writes a model in a format."""

from ml_models import registry
from ml_models.errors import WeightError
from ml_models.formats.huggingface import sink as huggingface
from ml_models.formats.megatron import sink as megatron
from ml_models.weights.sink import Sink, SinkOptions
from ml_models.weights.source import Reader

SINKS = {"huggingface": huggingface.make_sink, "megatron": megatron.make_sink}


def make_sink(kind: str, reader: Reader, options: SinkOptions) -> Sink:
    """A sink of the format `kind` for the model that `reader` reads. Raises WeightError."""
    _refuse_options_of_others(kind, options)
    releases = {entry.release_format: entry for entry in registry.releases()}
    if kind in releases:
        return releases[kind].release().make_sink(reader, options)
    if kind not in SINKS:
        raise WeightError(f"no format is called {kind!r}; known: {', '.join(registry.formats())}.")
    return SINKS[kind](reader, options)


def _refuse_options_of_others(kind: str, options: SinkOptions) -> None:
    """WeightError for an option without an effect: it would be read as one that was obeyed."""
    if options.scale_groups is not None and kind != "xai":
        raise WeightError(f"--xai-scale-groups belongs to --to xai; {kind} has no scales.")
    if options.presharded_ranks is not None and kind != "presharded":
        raise WeightError(
            f"--presharded-ranks belongs to --to presharded; files of {kind} are for no ranks."
        )
