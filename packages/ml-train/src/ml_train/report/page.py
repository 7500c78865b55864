"""One HTML file with everything in it: no script, no font and no picture from elsewhere."""

import base64
import html
from typing import Any

from ml_train.config.run import RunConfig
from ml_train.report.figures import all_figures
from ml_train.report.findings import findings
from ml_train.report.records import RunRecords

_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #22262e; background: #f5f6f8; margin: 0; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 17px; margin: 34px 0 10px; }
.sub { color: #666d7a; margin: 2px 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; }
.tile, .card { background: #fff; border: 1px solid #e3e6eb; border-radius: 8px; }
.tile { padding: 10px 14px; } .tile b { display: block; font-size: 20px; font-weight: 650; }
.tile span { color: #666d7a; font-size: 12.5px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 10px; }
.card { padding: 8px; overflow: hidden; } .card img { width: 100%; display: block; }
ul.findings { background: #fff8e6; border: 1px solid #f0dca4; border-radius: 8px;
  margin: 0; padding: 10px 14px 10px 32px; }
p.fine { background: #edf7f0; border: 1px solid #cfe6d6; border-radius: 8px; margin: 0;
  padding: 10px 14px; }
table { border-collapse: collapse; width: 100%; background: #fff; font-size: 13.5px; }
td, th { text-align: left; padding: 3px 10px; border-bottom: 1px solid #eceef2; }
td.v { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
tr.changed td { background: #f2f7fd; } details { margin: 8px 0; }
summary { cursor: pointer; font-weight: 600; }
"""


def render_page(run: RunRecords) -> str:
    """The page."""
    start = run.starts[-1] if run.starts else {}
    pictures = all_figures(run)
    name = _model_name(start)
    first, last = run.reports[0], run.reports[-1]
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{_text(name)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_CSS}</style></head><body><main>",
        f"<h1>{_text(name)}</h1>",
        f'<p class="sub">{_text(_subtitle(run, start))}</p>',
        _tiles(_facts(run, start, first, last)),
        "<h2>Findings</h2>",
        _findings(findings(run)),
        "<h2>Loss</h2>",
        _cards(pictures, "loss"),
        "<h2>Experts</h2>" if "expert_load" in pictures else "",
        _cards(pictures, "expert_load", "imbalance", "router_entropy", "aux_loss"),
        "<h2>Optimization</h2>",
        _cards(pictures, "grad_norm", "learning_rate"),
        "<h2>Speed and memory</h2>",
        _cards(pictures, "tokens", "tflops", "mfu", "phases", "memory"),
        "<h2>Validation</h2>" if run.validations else "",
        _validations(run),
        "<h2>Configuration</h2>",
        _configuration(start),
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _model_name(start: dict[str, Any]) -> str:
    model = start.get("config", {}).get("model", {})
    return str(model.get("model_config") or model.get("model") or "training run")


def _subtitle(run: RunRecords, start: dict[str, Any]) -> str:
    begun = (run.starts or run.reports)[0].get("time", "")
    versions = ", ".join(f"{k} {v}" for k, v in start.get("versions", {}).items())
    times = [text for text in (begun, run.reports[-1].get("time", "")) if text]
    return "  |  ".join(part for part in (" to ".join(times), versions, str(run.path)) if part)


def _facts(
    run: RunRecords, start: dict[str, Any], first: dict[str, Any], last: dict[str, Any]
) -> list[tuple[str, str]]:
    facts = [
        (f"{last['iteration']} of {last['train_iters']}", "steps"),
        (f"{last['loss']:.4f}", f"training loss (from {first['loss']:.4f})"),
    ]
    if run.validations:
        name, value = next(iter(run.validations[-1]["losses"].items()))
        facts.append((f"{value:.4f}", f"validation: {name}"))
    half = run.reports[len(run.reports) // 2 :]
    speed = sum(r["tokens_per_second_per_device"] for r in half) / len(half)
    facts.append((f"{speed:,.0f}", "tokens/s/device, second half"))
    rate = sum(r["model_tflops_per_device"] for r in half) / len(half)
    facts.append((f"{rate:.3g}", "model TFLOP/s/device"))
    if last.get("mfu") is not None:
        facts.append((f"{last['mfu']:.1%}", "MFU"))
    facts.append((f"{max(r['memory_bytes'] for r in run.reports) / 2**30:.2f} GiB", "peak memory"))
    if "num_devices" in start:
        layout = start.get("config", {}).get("parallel", {})
        sizes = [
            f"{short}{layout[key]}"
            for short, key in (
                ("TP", "tensor_model_parallel_size"),
                ("PP", "pipeline_model_parallel_size"),
                ("EP", "expert_model_parallel_size"),
                ("ETP", "expert_tensor_parallel_size"),
            )
            if layout.get(key)
        ]
        facts.append((str(start["num_devices"]), "devices: " + " ".join(sizes)))
    return facts


def _tiles(facts: list[tuple[str, str]]) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{_text(value)}</b><span>{_text(label)}</span></div>'
        for value, label in facts
    )
    return f'<div class="tiles">{tiles}</div>'


def _findings(sentences: list[str]) -> str:
    if not sentences:
        return '<p class="fine">Nothing stood out.</p>'
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return f'<ul class="findings">{items}</ul>'


def _cards(pictures: dict[str, str], *names: str) -> str:
    cards = []
    for name in names:
        if name in pictures:
            data = base64.b64encode(pictures[name].encode()).decode()
            image = f'<img alt="{name}" src="data:image/svg+xml;base64,{data}">'
            cards.append(f'<div class="card">{image}</div>')
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _validations(run: RunRecords) -> str:
    if not run.validations:
        return ""
    rows = "".join(
        f"<tr><td>{v['iteration']}</td><td>"
        + ", ".join(f"{_text(name)} {value:.5f}" for name, value in v["losses"].items())
        + "</td></tr>"
        for v in run.validations
    )
    return f"<table><tr><th>after step</th><th>result</th></tr>{rows}</table>"


def _configuration(start: dict[str, Any]) -> str:
    """Settings that differ from their defaults are tinted, and their sections open."""
    defaults = RunConfig()
    blocks = []
    for section, values in start.get("config", {}).items():
        rows, changed = [], 0
        for name, value in values.items():
            default = getattr(getattr(defaults, section, None), name, None)
            differs = _plain(value) != _plain(default)
            changed += differs
            mark = ' class="changed"' if differs else ""
            rows.append(
                f'<tr{mark}><td>{_text(name)}</td><td class="v">{_text(_plain(value))}</td></tr>'
            )
        opened = " open" if changed else ""
        title = f"{section} ({changed} changed)" if changed else section
        blocks.append(
            f"<details{opened}><summary>{_text(title)}</summary>"
            f"<table>{''.join(rows)}</table></details>"
        )
    model = "".join(
        f'<tr><td>{_text(k)}</td><td class="v">{_text(_plain(v))}</td></tr>'
        for k, v in start.get("model", {}).items()
    )
    if model:
        blocks.append(
            f"<details><summary>the model's own sizes</summary><table>{model}</table></details>"
        )
    return "".join(blocks) or '<p class="sub">The metrics hold no start record.</p>'


def _plain(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "unset"
    return str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))
