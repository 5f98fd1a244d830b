#!/usr/bin/env bash
# Everything that must hold before a change lands. Arguments go to pytest.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"
set +e

# Many processes compute on few cores here: threads that wait for one another shall sleep, not spin.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

failed=()

# stage NAME COMMAND…: run it, say how long it took, and go on even if it failed.
stage() {
    local name=$1 began=$SECONDS result=ok
    shift
    "$@" || { result=FAILED; failed+=("$name"); }
    printf '== %s: %s in %d s\n' "$name" "$result" "$((SECONDS - began))"
}

began=$SECONDS
(prepare dev) || exit
printf '== prepare: ok in %d s\n' "$((SECONDS - began))"
cd "$root" || exit
PATH=$venv/bin:$PATH

stage 'ruff check' ruff check .
stage 'ruff format' ruff format --check .
stage mypy mypy --exclude '/tests/' fw_sdk fw_mcp engine kernels
stage lint-imports lint-imports
# A file's tests share what is slow to make, so files are dealt out, and those of tests/, which last longest, first.
stage pytest pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"

if ((${#failed[@]})); then
    printf 'FAILED: %s\n' "${failed[*]}"
    exit 1
fi
printf 'all stages passed in %d s\n' "$((SECONDS - began))"
