"""The compiled kernels, without a GPU: every gate holds, and the committed table says what the compiler does."""

import os
import subprocess
import sys

import pytest

from kernels.registry import OPERATORS

pytest.importorskip("triton")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_table_is_what_the_compiler_makes(operator):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels", "aot", operator, "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    shown = [line for line in lines if not line.endswith(" ok")]
    assert done.returncode == 0, "\n".join([*shown[-40:], f"if meant: python -m kernels aot {operator}, and commit"])
