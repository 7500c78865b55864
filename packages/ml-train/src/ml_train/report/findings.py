"""What a reader of the report should know before believing its curves."""

import math

from ml_train.report.records import RunRecords, StepsRecord

STARVING_SHARE = 0.1
"""An expert is named whose share of tokens is less than this part of its fair share."""
SLOW_DATA = 0.1
"""The share of a step's time that may go by waiting for data."""
SPIKE, SPIKE_HISTORY = 5, 5
"""A gradient norm of this many times the median before it is named, once there are as many norms:
the first updates of a run have large ones."""


def findings(run: RunRecords) -> list[str]:
    """A sentence per finding; an empty list means that nothing stood out."""
    return [
        *_lines(run),
        *(
            f"Step {error['iteration']}: the run stopped. {error.get('text', '')}"
            for error in run.errors
        ),
        *_events(run),
        *(run.starts[-1].get("warnings", []) if run.starts else []),
        *_losses(run),
        *_experts(run.reports[-1]),
        *_data(run),
    ]


def _lines(run: RunRecords) -> list[str]:
    sentences = []
    if run.broken_lines:
        sentences.append(
            f"{run.broken_lines} unreadable lines of {run.path.name} were passed over."
        )
    if len(run.starts) > 1:
        steps = ", ".join(str(start["iteration"]) for start in run.starts[1:])
        times = len(run.starts) - 1
        often = "once" if times == 1 else f"{times} times"
        sentences.append(f"The run was started again {often}: after step {steps}.")
    return sentences


def _events(run: RunRecords) -> list[str]:
    """The first three of each kind, and how many more there were."""
    sentences = []
    for kind, what in (("skipped", "skipped updates"), ("rollback", "rollbacks")):
        events = [event for event in run.events if event["kind"] == kind]
        sentences += [f"{kind.capitalize()}: {event.get('text', '')}" for event in events[:3]]
        if len(events) > 3:
            sentences.append(f"There were {len(events) - 3} more {what}.")
    return sentences


def _losses(run: RunRecords) -> list[str]:
    sentences = []
    bad = [report["iteration"] for report in run.reports if not math.isfinite(report["loss"])]
    if bad:
        sentences.append(f"The loss is not a finite number at step {_some(bad)}.")
    skipped = sum(report.get("skipped_steps", 0) for report in run.reports)
    if skipped:
        sentences.append(f"{skipped} updates were skipped.")
    steps, norms = run.series("grad_norm")
    spikes = [
        step
        for index, (step, norm) in enumerate(zip(steps, norms, strict=True))
        if index >= SPIKE_HISTORY and norm > SPIKE * sorted(norms[:index])[index // 2]
    ]
    if spikes:
        sentences.append(
            f"The gradient norm is over {SPIKE} times its median so far at step {_some(spikes)}."
        )
    return sentences


def _experts(report: StepsRecord) -> list[str]:
    hungry = [
        (layer, expert)
        for layer, shares in enumerate(report.get("expert_load") or [])
        for expert, share in enumerate(shares)
        if share < STARVING_SHARE / len(shares)
    ]
    if not hungry:
        return []
    shown = ", ".join(f"layer {layer} expert {expert}" for layer, expert in hungry[:6])
    more = f" and {len(hungry) - 6} more" if len(hungry) > 6 else ""
    return [f"At the end these experts got under a tenth of their fair share: {shown}{more}."]


def _data(run: RunRecords) -> list[str]:
    timed = [report for report in run.reports if report.get("phase_seconds")]
    waited = sum(
        report["phase_seconds"].get("data", 0.0) * report.get("num_steps", 1) for report in timed
    )
    total = sum(report["step_seconds"] * report.get("num_steps", 1) for report in timed)
    if total and waited / total > SLOW_DATA:
        share = waited / total
        return [f"Steps waited for data for {share:.0%} of their time: raise --num-workers."]
    return []


def _some(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:5]))
    return shown + (f" and {len(steps) - 5} more" if len(steps) > 5 else "")
