"""Console command of ml-models."""


def main() -> int:
    """Placeholder until the command is written."""
    raise SystemExit("not written yet")
