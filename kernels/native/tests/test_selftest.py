"""The C kernels against plain loops: each instruction set under the address sanitizer, NEON under emulation."""

import platform
import shutil
import subprocess

import pytest

from kernels import native

PROGRAMS = {
    "packed": ("native/team.c", "block_matmul/pack.c", "block_matmul/cpu.c", "native/tests/selftest.c"),
    "exact": ("native/tests/selftest_exact.c",),
}
CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
VARIANTS = {variant.name: variant for variant in native.VARIANTS}


def build(compiler, program, variant, target, *flags):
    sources = [str(native.ROOT / source) for source in PROGRAMS[program]]
    command = [compiler, *native.FLAGS, *flags, *VARIANTS[variant].flags, *sources, "-o", str(target), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
@pytest.mark.parametrize(
    ("program", "variant"),
    [
        (program, variant.name)
        for program in PROGRAMS
        for variant in native.usable_variants()
        if (program, variant.name) != ("exact", "avxvnni")  # the same code as for avx2
    ],
)
def test_it_computes_the_same_and_touches_nothing_beside_its_data(program, variant, tmp_path):
    sanitizers = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover")
    built = build("cc", program, variant, tmp_path / "selftest", *sanitizers)
    done = subprocess.run([built], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[:3000]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(CROSS_COMPILER) is None or shutil.which(EMULATOR) is None,
    reason="needs gcc-aarch64-linux-gnu and qemu-user",
)
@pytest.mark.parametrize("variant", ["neon", "portable"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_arm_computes_the_same_under_emulation(program, variant, tmp_path):
    assert platform.machine() != "aarch64"
    built = build(CROSS_COMPILER, program, variant, tmp_path / "selftest", "-static")
    done = subprocess.run([EMULATOR, built], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[:3000]
