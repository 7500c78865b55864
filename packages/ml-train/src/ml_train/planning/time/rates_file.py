"""data/rates.toml: fitted rates as text. benchmarks/planning/published.py writes it."""

from dataclasses import asdict

from ml_train.planning.time.fit import Fit
from ml_train.planning.time.published import published_devices

_HEAD = """\
# Rates that were fitted to published runs: ml_train/planning/time/rates.py says what they mean.
# Written by `python benchmarks/planning/published.py --write`. Do not edit.
"""


def rates_text(fit: Fit) -> str:
    """The file's text, with four digits of every rate."""
    lines = [_HEAD, "[rates]"]
    for name, value in asdict(fit.rates).items():
        if name == "product_share":
            shares = ", ".join(f"{dtype} = {share:.4g}" for dtype, share in value.items())
            lines.append(f"{name} = {{ {shares} }}")
        elif isinstance(value, bool):
            lines.append(f"{name} = {str(value).lower()}")
        else:
            lines.append(
                f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value:.4g}"
            )
    for name, factor in fit.slower.items():
        lines += ["", f"[devices.{published_devices()[name].name}]", f"slower = {factor:.4g}"]
    return "\n".join(lines) + "\n"
