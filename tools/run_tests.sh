#!/usr/bin/env bash
# Passes every check of this repository. Needs Python 3.11, bash and git; builds its own environments.
# Arguments go to nox: `bash tools/run_tests.sh -s lint`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
if [ ! -x .nox/driver/bin/nox ]; then
  "$python" -m venv .nox/driver
  .nox/driver/bin/python -m pip install --quiet --disable-pip-version-check "nox>=2024.4.15"
fi
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .nox/driver/bin/nox "$@"
