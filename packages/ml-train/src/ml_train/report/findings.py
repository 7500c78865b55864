"""What a reader of the report should know before believing its curves."""

import math
from typing import Any

from ml_train.report.records import RunRecords

STARVING_SHARE = 0.1
"""An expert with less than this part of its fair share is named."""
SLOW_DATA = 0.1
"""Waiting for data for more than this part of a step is named."""


def findings(run: RunRecords) -> list[str]:
    """One sentence each; none means that nothing stood out."""
    return [
        *_lines(run),
        *(f"Step {e['iteration']}: the run stopped. {e.get('text', '')}" for e in run.errors),
        *_events(run),
        *(run.starts[-1].get("warnings", []) if run.starts else []),
        *_losses(run),
        *_experts(run.reports[-1]),
        *_data(run),
    ]


def _lines(run: RunRecords) -> list[str]:
    found = []
    if run.broken_lines:
        found.append(f"{run.broken_lines} unreadable lines of {run.path.name} were passed over.")
    if len(run.starts) > 1:
        steps = ", ".join(str(start["iteration"]) for start in run.starts[1:])
        times = len(run.starts) - 1
        often = "once" if times == 1 else f"{times} times"
        found.append(f"The run was started again {often}: after step {steps}.")
    return found


def _events(run: RunRecords) -> list[str]:
    """The first few of each kind, and how many more there were."""
    found = []
    for kind, what in (("skipped", "skipped updates"), ("rollback", "rollbacks")):
        events = [event for event in run.events if event["kind"] == kind]
        found += [f"{kind.capitalize()}: {event.get('text', '')}" for event in events[:3]]
        if len(events) > 3:
            found.append(f"There were {len(events) - 3} more {what}.")
    return found


def _losses(run: RunRecords) -> list[str]:
    found = []
    bad = [r["iteration"] for r in run.reports if not math.isfinite(r["loss"])]
    if bad:
        found.append(f"The loss is not a finite number at step {_some(bad)}.")
    skipped = sum(r.get("skipped_steps", 0) for r in run.reports)
    if skipped:
        found.append(f"{skipped} updates were skipped.")
    steps, norms = run.series("grad_norm")
    spikes = [
        step
        for index, (step, norm) in enumerate(zip(steps, norms, strict=True))
        if index >= 5 and norm > 5 * sorted(norms[:index])[index // 2]
    ]
    if spikes:
        found.append(
            f"The gradient norm is over 5 times its median so far at step {_some(spikes)}."
        )
    return found


def _experts(report: dict[str, Any]) -> list[str]:
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
    steps = [r for r in run.reports if r.get("phase_seconds")]
    waited = sum(r["phase_seconds"].get("data", 0.0) * r.get("num_steps", 1) for r in steps)
    total = sum(r["step_seconds"] * r.get("num_steps", 1) for r in steps)
    if total and waited / total > SLOW_DATA:
        share = waited / total
        return [f"Steps waited for data for {share:.0%} of their time: raise --num-workers."]
    return []


def _some(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:5]))
    return shown + (f" and {len(steps) - 5} more" if len(steps) > 5 else "")
