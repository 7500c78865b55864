"""Is the layout legal on these processes, and can the cluster's platform do what is asked of it?"""

from collections.abc import Iterator

from ml_models.costs.packages import installed_packages
from ml_models.errors import ConfigError as ModelConfigError
from ml_models.errors import MlModelsError
from ml_models.kernels.table import choices
from ml_models.platforms import patch, platform_class
from ml_train.errors import ConfigError
from ml_train.parallel.groups import check_backend
from ml_train.parallel.layout import layout_faults
from ml_train.planning.legality import neighbours, words
from ml_train.pretrain import refuse_for_the_core_line
from ml_train.rehearsal.finding import Finding, sound, wrong
from ml_train.rehearsal.job import Job

SUBJECT = "layout"
_LIBRARIES_OF_FORMS = frozenset({"flash_attn", "torch_npu", "triton"})


def check(job: Job) -> Iterator[Finding]:
    """Every broken rule of the layout, then what the platform refuses."""
    loaded, cluster = job.loaded, job.cluster
    training = loaded.config.training
    faults = layout_faults(
        loaded.config.parallel,
        loaded.model,
        world_size=cluster.num_processes,
        micro_batch_size=training.micro_batch_size,
        global_batch_size=training.global_batch_size,
    )
    nearest = neighbours(loaded.config, loaded.model, cluster.num_processes) if faults else ""
    for fault in faults:
        yield wrong(SUBJECT, f"{fault} {nearest}", fix=nearest)
    if cluster.processes_per_node > cluster.device.devices_per_node:
        yield wrong(
            SUBJECT,
            f"--nproc-per-node is {cluster.processes_per_node}, and a node of "
            f"{cluster.device.title} has {cluster.device.devices_per_node} devices.",
            fix="Start a process for each device, on more nodes (--nnodes).",
        )
    yield from _profile_ranks(job)
    yield from _core_line(job)
    if cluster.device.platform is not None:
        yield from _backend(job, cluster.device.platform)
        yield from _kernels(job, cluster.device.platform)
    if job.layout is not None:
        batches = job.layout.num_microbatches
        what = f"{words(job.layout)}, {batches} micro batches a step"
        yield sound(SUBJECT, f"{cluster.num_processes} processes: {what}")


def _profile_ranks(job: Job) -> Iterator[Finding]:
    logging, last = job.loaded.config.logging, job.cluster.num_processes - 1
    beyond = [str(rank) for rank in logging.profile_ranks if rank > last]
    if logging.profile and beyond:
        yield wrong(
            SUBJECT,
            f"--profile-ranks {' '.join(beyond)}: the job's ranks are 0 to {last}, so that nothing "
            "would be recorded there.",
            fix=f"Give ranks up to {last}.",
        )


def _core_line(job: Job) -> Iterator[Finding]:
    try:
        refuse_for_the_core_line(job.loaded.config)
    except ConfigError as error:
        yield wrong(SUBJECT, error, fix="Use a newer megatron-core.")


def _backend(job: Job, platform_name: str) -> Iterator[Finding]:
    try:
        check_backend(platform_class(platform_name), job.loaded.config.parallel)
    except ConfigError as error:
        yield wrong(SUBJECT, error, fix="Drop the flag.")


def _kernels(job: Job, platform_name: str) -> Iterator[Finding]:
    """A form that no installation can give is an error, a library that is absent here a warning."""
    settings = job.loaded.config.kernels.settings()
    situation = job.loaded.situation(platform_name)
    try:
        with patch.temporarily(installed_packages(_LIBRARIES_OF_FORMS)):
            choices(settings, situation)
    except ModelConfigError as error:
        yield wrong(SUBJECT, error, fix="Drop the flag.")
        return
    try:
        choices(settings, situation)
    except MlModelsError as error:
        text = f"On this machine, not necessarily on the cluster: {error}"
        yield wrong(SUBJECT, text, fix="Install the library on the cluster.", severity="warning")
