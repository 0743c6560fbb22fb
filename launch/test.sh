#!/usr/bin/env bash
# Installs the project into a fresh virtual environment and runs the checks, WORKERS (2) tests at a time. Arguments go to
# pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

venv=${VENV:-.venv-test}
rm -rf "$venv"
make_venv "$venv" dev
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
# Files in their order: by number of tests, the few large ones of the networks would come last, and one process be idle.
exec "$venv/bin/python" -m pytest --durations=10 --numprocesses "${WORKERS:-2}" --dist loadfile --no-loadscope-reorder "$@"
