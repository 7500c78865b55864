"""`ml-data tokenize` under the name that Megatron's users know; the flags are the same."""

import sys

from ml_data.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["tokenize", *sys.argv[1:]]))
