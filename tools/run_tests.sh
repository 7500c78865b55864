#!/usr/bin/env bash
# Passes every check of this repository. Needs bash, git and Python 3.11, 3.12 or 3.13 (PYTHON chooses);
# builds its own environments under .nox. Arguments go to nox: `bash tools/run_tests.sh -s lint`.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! .nox/driver/bin/nox --version >/dev/null 2>&1; then
  python=$(tools/find_python.sh)
  "$python" -m venv --clear .nox/driver
  .nox/driver/bin/python -m pip install --quiet --disable-pip-version-check "nox>=2024.4.15"
fi
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .nox/driver/bin/nox "$@"
