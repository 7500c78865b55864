"""ml-train index: build the sample indexes of a run ahead of time, on a CPU, without the job."""

import argparse

from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import load_config
from ml_train.errors import ConfigError

DESCRIPTION = "Build the sample indexes that a run will want, so that its start need not wait."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's own flags."""
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Build what the cache lacks and say where it is."""
    loaded = load_config(given_flags(args))
    config = loaded.config
    if config.data.mock_data:
        raise ConfigError("--mock-data reads no files, so there are no sample indexes to build.")
    if config.training.global_batch_size is None:
        raise ConfigError(
            "--global-batch-size is unset: without it the number of samples depends on the number "
            "of processes of the later run. Give it here and there."
        )
    from ml_models.platforms import make_core_importable

    make_core_importable()
    from ml_train.data.index_job import read_stamp
    from ml_train.data.indexes import ensure_indexes
    from ml_train.data.loaders import cache_directory, checked_spec
    from ml_train.data.manifest import tokenizer_facts
    from ml_train.data.samples import planned_samples

    facts = tokenizer_facts(config.tokenizer)
    spec = checked_spec(
        config.data,
        samples=planned_samples(config, config.training.global_batch_size),
        sequence_length=loaded.model.seq_length,
        seed=config.training.seed,
        vocab_size=loaded.model.vocab_size,
        eod_id=facts.eod_id if facts else None,
        tokenizer_fingerprint=facts.fingerprint if facts else None,
    )
    cache = cache_directory(config.data, spec.files[0][0])
    there = read_stamp(spec, cache) is not None
    ensure_indexes(spec, cache, shared=True)
    files = read_stamp(spec, cache) or {}
    print(f"{len(files)} files of {spec.name()} {'were' if there else 'are now'} in {cache}")
    for name, digest in files.items():
        print(f"{digest[:16]}  {name}")
    return 0
