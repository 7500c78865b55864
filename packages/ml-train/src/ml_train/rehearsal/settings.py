"""Rules of the configuration, and settings that would not do what they promise."""

from collections.abc import Iterator

from ml_train.config.ineffective import ineffective, unreached
from ml_train.rehearsal.finding import Finding, sound, wrong
from ml_train.rehearsal.job import Job

SUBJECT = "settings"


def check(job: Job) -> Iterator[Finding]:
    """Settings without effect are warnings; a learning rate that is never reached is an error."""
    loaded = job.loaded
    never = unreached(loaded.config)
    for text in never:
        yield wrong(SUBJECT, text, fix="Raise --train-iters or shorten the warm-up.")
    given = {key: origin for key, origin in loaded.origins.items() if origin != "default"}
    for text in ineffective(loaded.config, given):
        yield wrong(SUBJECT, text, fix="Drop the setting.", severity="warning")
    training = loaded.config.training
    if training.train_iters == 0:
        yield wrong(
            SUBJECT,
            "--train-iters is 0: the job would end without a step.",
            fix="Give the number of steps.",
        )
    yield sound(SUBJECT, f"{loaded.config.model.model}, {training.train_iters} steps")
