"""Console command of ml-data."""


def main() -> int:
    """Placeholder until the command is written."""
    raise SystemExit("not written yet")
