#!/usr/bin/env bash
# From a fresh clone to a fine-tuned, evaluated and deployed model. Arguments go to `fw quickstart` (try --smoke).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

prepare
exec "$venv/bin/fw" quickstart "$@"
