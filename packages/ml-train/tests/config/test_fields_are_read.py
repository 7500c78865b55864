"""Every field of the configuration is read by the code that trains: nothing is set for nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import ml_train
from ml_train.config.fields import settings

SOURCE = Path(ml_train.__file__).parent
# Where a section goes by another name than its own.
ALIASES = {"optimizer": {"settings"}, "model": {"section"}, "checkpoint": {"config", "_config"}}
ALIASES["health"] = {"config", "_config"}
ALIASES["tokenizer"] = ALIASES["data"] = {"section"}
# Where the reader is the configuration itself: only 1 is legal; it becomes the model's own length.
WITHIN = {"context_parallel_size", "seq_length"}
# Read through a property of their own section.
THROUGH = {"tokenizer_name_or_path": "path", "tokenizer_model": "path"}
THROUGH |= {"model": "resolve", "model_config": "resolve", "model_override": "resolve"}
THROUGH |= {"attention_backend": "settings", "use_flash_attn": "settings"}
THROUGH |= {"moe_grouped_gemm": "settings", "no_gradient_accumulation_fusion": "settings"}
THROUGH |= dict.fromkeys(
    ("use_fused_rmsnorm", "use_fused_swiglu", "use_fused_rotary_pos_emb"), "settings"
)


def reads() -> set[tuple[str, str]]:
    """(name before the dot, attribute) of every attribute read outside the configuration."""
    attributes = set()
    for path in SOURCE.rglob("*.py"):
        if "config" in path.relative_to(SOURCE).parts[:1]:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                if isinstance(owner, ast.Attribute):
                    attributes.add((owner.attr, node.attr))
                elif isinstance(owner, ast.Name):
                    attributes.add((owner.id, node.attr))
    return attributes


def test_every_field_is_read_outside_the_configuration() -> None:
    attributes = reads() | {("model", "resolve")}  # config/load.py calls it for every command
    unread = [
        setting.key
        for setting in settings().values()
        if setting.name not in WITHIN
        and not any(
            (owner, THROUGH.get(setting.name, setting.name)) in attributes
            for owner in {setting.section, *ALIASES.get(setting.section, set())}
        )
    ]
    assert unread == []
