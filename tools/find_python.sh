#!/usr/bin/env bash
# Prints the path of the newest Python that runs, of the versions that this repository's commands support.
#
#   tools/find_python.sh               3.13, 3.12 or 3.11 in PATH; $PYTHON wins where it is set
#   tools/find_python.sh --version X.Y exactly this version, in PATH or among pyenv's versions
#
# A candidate must start, report the version that is asked for, and be able to make an environment.
# pyenv's stand-ins for versions that are not selected exist in PATH, but do not start.
set -uo pipefail

# Succeeds if $1 starts as Python $2 and has venv and ensurepip, which Debian packs separately.
runs_as() {
    "$1" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$2')" </dev/null >/dev/null 2>&1
}

in_path() {
    local candidate
    while IFS= read -r candidate; do
        if runs_as "$candidate" "$1"; then echo "$candidate"; return 0; fi
    done < <(type -ap "python$1" python3 python)
    return 1
}

in_pyenv() {
    local root candidate
    root=$(pyenv root 2>/dev/null) || return 1
    for candidate in "$root/versions/$1".*/bin/python; do
        if runs_as "$candidate" "$1"; then echo "$candidate"; return 0; fi
    done
    return 1
}

case "${1:-}" in
    --version)
        in_path "${2:?a version such as 3.12}" || in_pyenv "$2"
        exit
        ;;
    "") ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

if [ -n "${PYTHON:-}" ]; then
    path=$(type -P "$PYTHON")
    for version in 3.13 3.12 3.11 3.10; do
        if [ -n "$path" ] && runs_as "$path" "$version"; then echo "$path"; exit 0; fi
    done
    echo "PYTHON is '$PYTHON', which does not run as Python 3.10 to 3.13 with the module venv." \
        "Set PYTHON to an interpreter that does, or unset it to have one looked up." >&2
    exit 1
fi
for version in 3.13 3.12 3.11; do
    if in_path "$version"; then exit 0; fi
done
echo "No Python 3.13, 3.12 or 3.11 with the module venv runs from PATH." \
    "Install one (Debian and Ubuntu: apt install python3 python3-venv), or set PYTHON to its path." >&2
exit 1
