"""How many sequences a run takes of each split: fixed before its first step.

The shuffled order of the samples depends on these numbers, so a resumed run must ask for the same
ones: they come from the configuration alone, never from where the run stands.
"""

from ml_train.config.run import RunConfig


def planned_samples(config: RunConfig, batch_size: int) -> tuple[int, int, int]:
    """Sequences of train, valid and test over the whole run.

    Validation runs every eval_interval steps and once at the end, as in Megatron; the final test
    takes eval_iters batches where --test-data-path is given.
    """
    training = config.training
    rounds = training.train_iters // training.eval_interval + 1
    return (
        training.train_iters * batch_size,
        rounds * training.eval_iters * batch_size,
        training.eval_iters * batch_size if config.data.test_data_path else 0,
    )
