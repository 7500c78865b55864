"""Console command of ml-train."""


def main() -> int:
    """Placeholder until the command is written."""
    raise SystemExit("not written yet")
