# Sourced by quickstart.sh and test.sh: a virtual environment in .venv with fw and a torch that suits the machine.
# Everything is said on stderr, so that stdout stays the command's own.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
torch_wanted='torch==2.13.0'

say() { printf '%s\n' "$*" >&2; }
stop() { printf "%s\n" "$@" >&2; exit 1; }
pip_install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2; }

# prepare [EXTRA]: make .venv ready, with the extra of that name; quick when nothing has changed since the last time.
prepare() {
    local extra=${1:-} stamp wanted
    stamp=$venv/.fw-ready${extra:+-$extra}
    make_venv
    wanted=$("$venv/bin/python" -c '
import hashlib, pathlib, sys
print(sys.version.split()[0], hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes()).hexdigest())
' "$root/pyproject.toml")
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
    settle_torch
    say "installing fw${extra:+ with the extra '$extra'} into .venv (a few minutes the first time) …"
    pip_install --editable "$root${extra:+[$extra]}" || stop "pip could not install fw; its words are above."
    say "compiling kernels for this processor …"
    "$venv/bin/python" -m kernels.native >&2
    printf '%s\n' "$wanted" >"$stamp"
}

make_venv() {
    "$venv/bin/python" -c 'import pip' 2>/dev/null && return
    local python
    python=$(find_python) || stop "fw needs Python 3.11 or newer; none of python3, python3.13, python3.12, python3.11 is." \
        "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) and run this again."
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        install_venv_module "$python"
    fi
    say "making .venv with $("$python" --version) …"
    "$python" -m venv --clear "$venv" || stop "python -m venv failed; its words are above."
}

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# Debian ships Python without the module that puts pip into a virtual environment.
install_venv_module() {
    local package
    package=python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        stop "This Python cannot make virtual environments." "Run: sudo apt-get install $package" "and then this again."
    fi
    say "installing $package …"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "$package"; } >/dev/null ||
        stop "apt-get could not install $package; its words are above."
}

# A torch that fits is kept. With an NVIDIA GPU pip's own choice is right. Without one, gigabytes of CUDA are never
# fetched: pip is asked first what it would install.
settle_torch() {
    if "$venv/bin/python" -c '
import importlib.metadata, sys
version = importlib.metadata.version("torch")
print(f"torch {version} is there and fits", file=sys.stderr)
sys.exit(tuple(map(int, version.split("+")[0].split(".")[:2])) < (2, 11))
' 2>/dev/null; then
        return
    fi
    if has_nvidia_gpu; then
        say "installing torch for the NVIDIA GPU …"
        pip_install 'torch>=2.11' || stop "pip could not install torch; its words are above."
        return
    fi
    say "asking pip which build of $torch_wanted it would install …"
    pulls_no_cuda || no_cpu_torch
    say "installing $torch_wanted (CPU build) …"
    pip_install "$torch_wanted" || stop "pip could not install torch; its words are above."
}

has_nvidia_gpu() {
    compgen -G '/dev/nvidia[0-9]*' >/dev/null
}

# Whether installing torch would bring no package of CUDA; a build for the CPU alone requires none.
pulls_no_cuda() {
    local report
    report=$(mktemp)
    pip_install --dry-run --report "$report" "$torch_wanted" || stop "pip finds no $torch_wanted; its words are above."
    "$venv/bin/python" - "$report" <<'PYTHON'
import json, sys

names = [item["metadata"]["name"].lower() for item in json.load(open(sys.argv[1]))["install"]]
sys.exit(any(name.startswith(("nvidia-", "cuda-")) for name in names))
PYTHON
    local answer=$?
    rm -f "$report"
    return $answer
}

no_cpu_torch() {
    stop "This machine has no NVIDIA GPU, and pip would fetch torch with gigabytes of CUDA. Nothing was installed. Either" \
        "install a CPU build into .venv yourself (PyTorch's installation page gives the index for your machine):" \
        "    .venv/bin/pip install $torch_wanted --index-url INDEX" \
        "or take the CUDA build all the same:" \
        "    .venv/bin/pip install $torch_wanted" \
        "and run this again: a fitting torch is kept."
}
