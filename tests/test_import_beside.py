"""transformers looks for another project's package called ``kernels``: it must import and work beside ours."""

import subprocess
import sys

PROGRAM = """
import torch, transformers, peft
import kernels.rms_norm
import engine.models
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
model = peft.get_peft_model(LlamaForCausalLM(config), peft.LoraConfig(r=2, target_modules=["q_proj"]))
loss = model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
loss.backward()
ours = kernels.rms_norm.rms_norm(torch.ones(2, 4), torch.ones(4), 1e-6)
assert loss.isfinite() and ours.isfinite().all()
print(kernels.__file__)
"""


def run():
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_transformers_and_peft_run_beside_our_kernels():
    import kernels

    assert run() == kernels.__file__
