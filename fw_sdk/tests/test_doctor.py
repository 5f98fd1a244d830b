"""What ``fw doctor`` says about the daemon's background loops."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fw_sdk.doctor import supervision
from fw_sdk.tests.scripted_server import Reply, Seen, scripted
from fw_sdk.types import Health, LoopHealth, LoopState
from fw_sdk.types.home import Home


def test_doctor_names_each_loop_that_is_not_well(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    assert supervision(home).status == "warn", "no daemon runs"
    loops = [LoopHealth(name="jobs", state=LoopState.OK)]

    def answer(_number: int, _seen: Seen) -> Reply:
        health = Health(version="1", pid=os.getpid(), evaluator_isolation="limits", supervision=loops)
        return Reply(body=health.to_wire())

    with scripted(answer) as server:
        me = json.dumps({"url": server.url, "pid": os.getpid(), "startTicks": start_ticks()})
        home.daemon_file.write_text(me)
        assert (supervision(home).status, supervision(home).message) == ("ok", "jobs")
        loops.append(LoopHealth(name="workers", state=LoopState.FAILING, last_error="OSError"))
        failing = supervision(home)
        assert failing.status == "warn" and failing.message == "workers is failing (OSError)"
        loops.append(LoopHealth(name="deployments", state=LoopState.OVERDUE))
        hanging = supervision(home)
        assert "deployments is overdue" in hanging.message and "fw down" in hanging.fix


def start_ticks() -> int:
    """When this process started, as the kernel counts."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
