# Sourced by the scripts beside it: `make_venv DIR [EXTRAS]` installs the project into a virtual environment.

make_venv() {
  local venv=$1 extras=${2:-} python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) is too old, Python 3.11 or newer is needed; name one with PYTHON=..." >&2
    return 2
  fi
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
}
