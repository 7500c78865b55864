"""What a rank sends in a training step, by kind of parallelism."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from megatron.core import parallel_state
from torch.distributed import ProcessGroup, get_process_group_ranks

from ml_train.planning.meter import Collective


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """All collectives of a kind over one group of ranks in a training step."""

    kind: str
    """all-reduce, all-gather, reduce-scatter, all-to-all, send, receive, broadcast."""
    parallelism: str
    """A value of GROUPS, or "step" for the numbers that ranks agree on in a step."""
    ranks: tuple[int, ...]
    """Global ranks of the group."""
    calls: float
    message_bytes: float
    """Whole messages, added up."""
    sent_bytes: float
    """By this rank in a ring algorithm."""


GROUPS: tuple[tuple[str, Callable[[], ProcessGroup]], ...] = (
    ("tp", parallel_state.get_tensor_model_parallel_group),
    ("tp", parallel_state.get_tensor_and_context_parallel_group),
    ("pp", parallel_state.get_pipeline_model_parallel_group),
    ("ep", parallel_state.get_expert_model_parallel_group),
    ("etp", parallel_state.get_expert_tensor_parallel_group),
    ("etp", parallel_state.get_expert_tensor_and_model_parallel_group),
    ("dp", parallel_state.get_data_parallel_group),
    ("dp", partial(parallel_state.get_data_parallel_group, with_context_parallel=True)),
    ("edp", parallel_state.get_expert_data_parallel_group),
    ("embedding", parallel_state.get_embedding_group),
)
"""Kinds of parallelism, and where megatron-core keeps their groups. A rank may lack a group."""

OF_LAYERS = frozenset({"tp", "ep", "etp"})
"""Parallelism inside a layer. Its traffic in the passes is that of micro batches; what it sends
outside of them, such as the gradients of norms, is sent once a step."""


_BETWEEN_STAGES = frozenset({"send", "receive"})
"""Kinds of messages that go to the next or the previous stage of the pipeline, and nowhere else."""


def traffic_of_step(collectives: Sequence[Collective], *, repeats: float) -> tuple[Traffic, ...]:
    """Sums per kind and group. Needs the process groups.

    repeats: micro batches of a step over those that were recorded.
    """
    names = _group_names()
    pipeline = parallel_state.get_pipeline_model_parallel_group()
    sums: dict[tuple[str, str], Traffic] = {}
    for call in collectives:
        if call.kind in _BETWEEN_STAGES:
            # megatron-core sends some of them over the group of all ranks.
            call = replace(
                call, group=pipeline.group_name, ranks=tuple(get_process_group_ranks(pipeline))
            )
        if len(call.ranks) == 1:
            continue
        parallelism = names.get(call.group, "step")
        in_a_layer = parallelism in OF_LAYERS and call.phase in ("forward", "backward")
        factor = repeats if in_a_layer or parallelism == "pp" else 1
        key = (call.kind, call.group)
        before = sums.get(key) or Traffic(
            kind=call.kind,
            parallelism=parallelism,
            ranks=call.ranks,
            calls=0,
            message_bytes=0,
            sent_bytes=0,
        )
        sums[key] = replace(
            before,
            calls=before.calls + factor,
            message_bytes=before.message_bytes + factor * call.num_bytes,
            sent_bytes=before.sent_bytes + factor * call.sent_bytes,
        )
    return tuple(sums.values())


def _group_names() -> dict[str, str]:
    """torch's name of a group -> its kind of parallelism; the first of GROUPS that has it."""
    names: dict[str, str] = {}
    for parallelism, group_of in GROUPS:
        try:
            group = group_of()
        except AssertionError:  # megatron-core's answer where this rank is in no such group
            continue
        names.setdefault(group.group_name, parallelism)
    return names
