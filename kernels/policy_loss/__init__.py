"""The clipped policy loss of GRPO and DAPO, from hidden rows to their gradient without the logits."""

from kernels.policy_loss.op import PolicyLoss, policy_loss, row_weights

__all__ = ["PolicyLoss", "policy_loss", "row_weights"]
