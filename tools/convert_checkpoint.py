"""Convert weights between Hugging Face, xAI's release and Megatron: `ml-models convert`.

Usage: python tools/convert_checkpoint.py --from xai --to megatron --input ckpt-0 --output OUT
"""

import argparse
import sys

from ml_models.commands import convert
from ml_models.errors import MlModelsError


def main() -> int:
    """The command under the name that users of other stacks look for."""
    parser = argparse.ArgumentParser(prog="convert_checkpoint.py", description=convert.__doc__)
    convert.add_arguments(parser)
    try:
        return convert.run(parser.parse_args())
    except MlModelsError as error:
        print(f"convert_checkpoint.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
