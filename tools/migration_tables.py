"""Write the flag tables of docs/from-modellink.md and docs/from-megatron.md.

The tables are made from the settings and flag tables of ml_train.config, so a page cannot promise
an effect that the code does not have. A test of ml-train fails when a page is out of step.

Usage: python tools/migration_tables.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ml_train.config.fields import Setting, settings
from ml_train.config.megatron_flags import REFUSED, STATEMENTS

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "packages" / "ml-train" / "tests" / "config" / "scripts"
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


def flags_of(script: str) -> list[str]:
    """The flags of a script of the field, in its order."""
    lines = (SCRIPTS / f"{script}.txt").read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.startswith("--")]


def other_flags() -> list[str]:
    """The flags of the field's other scripts that the guide's script does not have."""
    guide = set(flags_of("grok1_40b_guide"))
    others = flags_of("grok1_40b_2024_09") + flags_of("mixtral_8x7b_mindspeed")
    return list(dict.fromkeys(flag for flag in others if flag not in guide))


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
    """page with the part between two marks replaced. Raises ValueError where they are absent."""
    begin, end = BEGIN.format(name), END.format(name)
    if begin not in page or end not in page:
        raise ValueError(f"The page lacks the mark {begin} or {end}.")
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{table}\n{end}{tail}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "from-modellink.md": {
        "guide": lambda: flags_table(flags_of("grok1_40b_guide")),
        "others": lambda: flags_table(other_flags()),
    },
    "from-megatron.md": {
        "refused": lambda: flags_table(REFUSED),
        "checked": lambda: flags_table(STATEMENTS),
        "settings": settings_table,
    },
}
"""Page of docs/ -> mark in the page -> the table between its begin and end marks."""


def rendered(page: str) -> str:
    """The text of a page of docs/ with all its tables made anew."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for mark, table in TABLES[page].items():
        text = fill(text, mark, table())
    return text


def main() -> None:
    """Write all pages."""
    for page in TABLES:
        (ROOT / "docs" / page).write_text(rendered(page), encoding="utf-8")


if __name__ == "__main__":
    main()
