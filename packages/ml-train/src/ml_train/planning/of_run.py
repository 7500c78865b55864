"""What `ml-train plan` does with a loaded configuration: plan it, or search its layouts.

It brings megatron-core, so that the command imports it when the platform has started.
"""

import json
import time
from typing import TYPE_CHECKING

from ml_train import terminal
from ml_train.planning.plan import plan_run, planning_platform
from ml_train.planning.plot import save_plot
from ml_train.planning.search import report
from ml_train.planning.search.progress import show_progress
from ml_train.planning.search.search import SearchResult, search
from ml_train.planning.target import platform_of
from ml_train.planning.time.cluster import Cluster
from ml_train.planning.time.rates import rates_of

if TYPE_CHECKING:
    from ml_models.platforms.devices import Device
    from ml_train.config.load import LoadedConfig
    from ml_train.planning.search.space import Space

__all__ = ["figures", "plan_run", "save_plot", "show_search"]

figures = report.figures


def show_search(
    loaded: "LoadedConfig", space: "Space", device: "Device", *, as_json: bool
) -> SearchResult:
    """Search the layouts of a run on `device`, and print the ranking."""
    started = time.monotonic()
    cluster = Cluster(
        device=device, devices_per_node=space.devices_per_node, rates=rates_of(device.name)
    )
    with planning_platform(platform_of(device)) as platform, show_progress() as progress:
        result = search(loaded.config, loaded.model, space, cluster, platform, progress=progress)
    if as_json:
        terminal.result(json.dumps(report.document(result, space), indent=2))
        return result
    terminal.result(report.headline(result, space, time.monotonic() - started))
    if result.best:
        terminal.table(report.ranking(result), width=140)
    for reason in result.reasons:
        terminal.result(f"- {reason.line()}")
    return result
