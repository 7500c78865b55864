"""`python -m ml_data` is the console command `ml-data`."""

from ml_data.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
