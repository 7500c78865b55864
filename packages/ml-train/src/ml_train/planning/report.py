"""A plan as tables for a terminal and as a JSON document."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ml_train import tables
from ml_train.planning import time_report
from ml_train.planning.legality import words
from ml_train.planning.target import platform_of
from ml_train.tables import Column

if TYPE_CHECKING:
    from rich.table import Table

    from ml_train.planning.plan import RunPlan
    from ml_train.planning.traffic import Traffic

SCHEMA = 1
"""Version of the JSON document: docs/planning.md describes it."""


def headline(plan: "RunPlan") -> str:
    """The answer in two sentences."""
    layout = plan.layout
    verdict = (
        f"fits, {gigabytes(plan.margin)} are left"
        if plan.margin >= 0
        else f"does not fit, {gigabytes(-plan.margin)} are missing"
    )
    return (
        f"{plan.model} on {layout.world} x {plan.device.title}: {words(layout)}, "
        f"{layout.num_microbatches} micro batches a step of {layout.global_batch_size} sequences. "
        f"The fullest rank needs {gigabytes(plan.peak)} of {gigabytes(plan.device.memory_bytes)}: "
        f"it {verdict}."
    )


def memory_table(plan: "RunPlan") -> "Table":
    """A line per class of ranks."""
    columns = [
        Column(heading="ranks", is_text=True),
        Column(heading="number"),
        *(
            Column(heading=name)
            for name in (
                "parameters",
                "gradients",
                "optimizer",
                "activations",
                "update",
                "peak",
                "left",
            )
        ),
    ]
    rows = []
    for ranks in plan.classes:
        part = ranks.plan
        sizes = (
            part.held.parameters,
            part.held.gradients,
            part.held.optimizer,
            part.activations,
            part.update,
            part.peak,
            int(plan.device.memory_bytes) - part.peak,
        )
        numbers = [f"{size / 1e9:.2f}" for size in sizes]
        rows.append([ranks.title, str(ranks.num_ranks), *numbers])
    return tables.make_table(columns, rows, title="Memory of a rank in GB")


def traffic_table(plan: "RunPlan") -> "Table":
    """A line per kind of parallelism, of the class that sends most."""
    columns = [
        Column(heading="parallelism", is_text=True),
        Column(heading="collectives", is_text=True),
        Column(heading="ranks"),
        Column(heading="link", is_text=True),
        Column(heading="calls"),
        Column(heading="sent"),
    ]
    busiest = max(plan.classes, key=lambda ranks: sum(t.sent_bytes for t in ranks.plan.traffic))
    rows = []
    for (parallelism, ranks), entries in _by_parallelism(busiest.plan.traffic).items():
        rows.append(
            [
                parallelism,
                ", ".join(sorted({entry.kind for entry in entries})),
                str(len(ranks)),
                link(ranks, plan.devices_per_node),
                f"{sum(entry.calls for entry in entries):,.0f}",
                gigabytes(sum(entry.sent_bytes for entry in entries)),
            ]
        )
    return tables.make_table(columns, rows, title=f"Sent by a rank of {busiest.title} in a step")


def link(ranks: Sequence[int], devices_per_node: int) -> str:
    """Whether a group stays inside a node. Ranks fill the nodes in order, as torchrun does."""
    nodes = {rank // devices_per_node for rank in ranks}
    return "in a node" if len(nodes) == 1 else f"over {len(nodes)} nodes"


def document(plan: "RunPlan") -> dict[str, Any]:
    """The JSON document. Sizes are bytes."""
    return {
        "schema": SCHEMA,
        "model": plan.model,
        "layout": asdict(plan.layout),
        "device": {"name": plan.device.name, "memory_bytes": int(plan.device.memory_bytes)},
        "peak_bytes": plan.peak,
        "margin_bytes": plan.margin,
        "checkpoint_bytes": plan.checkpoint_bytes,
        "ranks": [
            {
                "title": ranks.title,
                "number": ranks.num_ranks,
                "rank": ranks.plan.rank,
                **asdict(ranks.plan.held),
                "activations": ranks.plan.activations,
                "update": ranks.plan.update,
                "kept": ranks.plan.kept,
                "saved": ranks.plan.held.saved,
                "peak": ranks.plan.peak,
                "traffic": [
                    {**asdict(entry), "link": link(entry.ranks, plan.devices_per_node)}
                    for entry in ranks.plan.traffic
                ],
            }
            for ranks in plan.classes
        ],
        "measured_step": plan.measured_step and plan.measured_step.document(),
        "forms": [asdict(choice) for choice in plan.forms],
        "advice": [asdict(item) for item in plan.advice],
        "time": time_report.document(plan.time),
        "notes": list(plan.notes),
    }


def staging_sentence(plan: "RunPlan") -> str:
    """What a save in the background needs of a node's own memory."""
    saved = max(ranks.plan.held.saved for ranks in plan.classes) * plan.devices_per_node
    return (
        f"A checkpoint takes {gigabytes(plan.checkpoint_bytes)}. A save copies at most "
        f"{gigabytes(saved)} into the memory of a node."
    )


def forms_sentence(plan: "RunPlan") -> str:
    """Which forms of the operations the figures are for."""
    forms = ", ".join(f"{choice.operation} {choice.form}" for choice in plan.forms)
    return f"Forms of the operations, as chosen on {platform_of(plan.device)}: {forms}."


def gigabytes(num_bytes: float) -> str:
    """10^9 bytes are 1.00 GB, as makers state a device's memory."""
    return f"{num_bytes / 1e9:.2f} GB"


def _by_parallelism(
    traffic: Sequence["Traffic"],
) -> dict[tuple[str, tuple[int, ...]], list["Traffic"]]:
    groups: dict[tuple[str, tuple[int, ...]], list[Traffic]] = defaultdict(list)
    for entry in traffic:
        if entry.parallelism != "step":  # numbers that ranks agree on: a few bytes
            groups[entry.parallelism, entry.ranks].append(entry)
    return groups
