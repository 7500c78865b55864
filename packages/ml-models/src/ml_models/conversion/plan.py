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
    releases = {entry.release_format: entry for entry in registry.releases()}
    if kind in releases:
        return releases[kind].release().make_sink(reader, options)
    if kind not in SINKS:
        raise WeightError(f"no format is called {kind!r}; known: {', '.join(registry.formats())}.")
    # An option without an effect would be read as one that was obeyed.
    if options.scale_groups is not None:
        raise WeightError(f"--xai-scale-groups belongs to --to xai; {kind} has no scales.")
    return SINKS[kind](reader, options)
