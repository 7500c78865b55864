"""The tables of docs/from-modellink.md and docs/from-megatron.md, from the tables that act.

A test keeps the pages in step: UPDATE_DOCS=1 pytest packages/ml-train/tests/test_migration_docs.py
writes them anew.
"""

from collections.abc import Iterable

from ml_train.config.fields import Setting, settings
from ml_train.config.megatron_flags import REFUSED, STATEMENTS

BEGIN, END = "<!-- begin {} -->", "<!-- end {} -->"

OUR_OWN = frozenset(
    {
        "model",
        "model_config",
        "model_override",
        "device",
        "shared_storage",
        "new_data_order",
        "keep_last",
        "keep_every",
        "no_verify_checksums",
        "signal_limit_seconds",
        "nan_loss_policy",
        "nan_grad_policy",
        "spiky_loss_policy",
        "spiky_loss_factor",
        "large_grads_policy",
        "large_grads_factor",
        "spike_window",
        "max_consecutive_skips",
        "max_rollbacks",
        "metrics_file",
        "peak_tflops_per_device",
    }
)
"""Settings that Megatron does not have under this name."""


def setting_of(flag: str) -> Setting | None:
    """The setting that --x or --no-x changes; None for other flags."""
    for setting in settings().values():
        negated = "--no-" + setting.flag[2:] if setting.kind is bool else None
        if flag in (setting.flag, negated):
            return setting
    return None


def effect(flag: str) -> tuple[str, str]:
    """(what kind of flag it is here, one sentence)."""
    if flag in REFUSED:
        return "refused", _capital(REFUSED[flag])
    if flag in STATEMENTS:
        return "checked", STATEMENTS[flag].text
    setting = setting_of(flag)
    if setting is None:
        raise KeyError(flag)
    off = "Turns off: " if flag != setting.flag else ""
    return f"`{setting.key}`", off + setting.text


def flags_table(flags: Iterable[str]) -> str:
    """A Markdown table, one row per flag."""
    lines = ["| flag | here | what happens |", "|---|---|---|"]
    for flag in flags:
        kind, text = effect(flag)
        lines.append(f"| `{flag}` | {kind} | {_cell(text)} |")
    return "\n".join(lines)


def settings_table() -> str:
    """A Markdown table of all settings."""
    lines = ["| flag | setting | default | what it does |", "|---|---|---|---|"]
    for setting in settings().values():
        default = setting.default
        shown = "unset" if default is None or default == () else f"`{default}`"
        mark = " (ours)" if setting.name in OUR_OWN else ""
        key = f"`{setting.key}`{mark}"
        lines.append(f"| `{setting.flag}` | {key} | {shown} | {_cell(setting.text)} |")
    return "\n".join(lines)


def fill(page: str, name: str, table: str) -> str:
    """page with the part between the marks of that name replaced."""
    begin, end = BEGIN.format(name), END.format(name)
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{table}\n{end}{tail}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
