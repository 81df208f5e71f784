# Sourced by the scripts beside it: makes the project's virtual environment and installs into it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${PROGNOBENCH_VENV:-.venv}"

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed and was not found." >&2
    return 1
}

# install REQUIREMENT: pip does nothing when the same project files were installed before.
install() {
    local stamp
    stamp="$venv/.installed-$(cat pyproject.toml constraints.txt | cksum | tr ' ' '-')-${1//[^a-z]/_}"
    [ -e "$stamp" ] && return
    if [ ! -x "$venv/bin/python" ]; then
        "$(find_python)" -m venv "$venv"
    fi
    echo "Installing into $venv (about 5.5 GB with torch; some minutes the first time) ..." >&2
    "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable "$1"
    touch "$stamp"
}
