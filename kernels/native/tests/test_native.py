"""One library for every instruction set, compiled once; and a plain word where there is none."""

import subprocess
import sys

import pytest

from kernels import native

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler here")
WORD = "from kernels import native; print(native.library() is None, native.status())"


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_compiler
@pytest.mark.timeout(300)
def test_it_is_compiled_once_and_serves_without_a_compiler_after_that(tmp_path):
    assert run(WORD, XDG_CACHE_HOME=str(tmp_path)).startswith("False compiled for ")
    (library,) = (tmp_path / "fw" / "kernels").glob("kernels-*.so")
    stamp = library.stat().st_mtime_ns
    assert run(WORD, XDG_CACHE_HOME=str(tmp_path), CC="no-such-compiler").startswith("False compiled for ")
    assert library.stat().st_mtime_ns == stamp


def test_without_a_compiler_it_says_so(tmp_path):
    said = run(WORD, XDG_CACHE_HOME=str(tmp_path), CC="no-such-compiler")
    assert said == "True no C compiler (cc) is on the path"


def test_what_the_compiler_refuses_is_said(tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'it is not Tuesday' >&2\nexit 1\n")
    broken.chmod(0o755)
    said = run(WORD, XDG_CACHE_HOME=str(tmp_path), CC=str(broken))
    assert said.startswith("True the kernels cannot be compiled") and "it is not Tuesday" in said


@needs_compiler
def test_every_variant_of_this_architecture_is_in_the_library():
    library = native.library()
    for variant in native.usable_variants():
        for name in ("pack", "block_matmul", "decode_f32", "decoder_step", "linear_bf16", "exact_attention_f32"):
            assert library.function(name, variant.name)
    assert library.variant == native.usable_variants()[0].name
    assert native.usable_variants()[-1].name == "portable"
