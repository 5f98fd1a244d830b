"""Errors, exit codes and formats of the command line, as a caller sees them."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
import typer

from fw_sdk.cli import output
from fw_sdk.cli.commands import loop
from fw_sdk.cli.run import report, run
from fw_sdk.cli.tree import build
from fw_sdk.types import CODES, FwError, TrainingConfig


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("FW_BASE_URL", "FW_API_KEY", "FW_FORMAT", "FW_PORT", *output.AGENT_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def commands(command=None, path=()):
    command = command or typer.main.get_command(build())
    inner = getattr(command, "commands", None)
    if not inner:
        return [path]
    return [found for name, child in inner.items() for found in commands(child, (*path, name))]


def test_every_command_has_help_and_takes_a_format(capsys):
    found = commands()
    assert len(found) > 40
    root = typer.main.get_command(build())
    for path in found:
        assert root.main(args=[*path, "--help"], prog_name="fw", standalone_mode=False) == 0
        text = capsys.readouterr().out
        assert "--format" in text and f"fw {' '.join(path)}" in text, path


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["modle", "list"], "model"),
        (["model", "lst"], "list"),
        (["model", "list", "--limti", "3"], "--limit"),
        (["doctor", "--frmat=json"], "--format"),
    ],
)
def test_a_misspelt_command_or_option_names_the_right_one(arguments, meant, capsys):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert f"Did you mean '{meant}'?" in captured.err and not captured.out
    assert run(["--format", "json", *arguments]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "invalid_argument" and meant in error["message"] and "--help" in error["hint"]


def test_usage_errors_say_what_is_wrong(capsys):
    for arguments, words in (
        (["model", "list", "--limit", "many"], "--limit"),
        (["dataset", "overlap", "a"], "other"),
        (["doctor", "--format", "yaml"], "yaml"),
        (["finetune", "start", "m", "d", "--train", "epochs"], "KEY=VALUE"),
    ):
        assert run(arguments) == 2, arguments
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999", "-1", "abc", "1.5", "٣", "65536"])
def test_a_port_that_is_none_is_a_usage_error_and_no_bug(port, monkeypatch, capsys):
    monkeypatch.setenv("FW_PORT", port)
    for arguments in (["up"], ["up", "--detach"]):
        assert run(arguments) == 2
        text = capsys.readouterr().err
        assert f"FW_PORT is '{port}'" in text and "65535" in text and "bug" not in text


def test_an_unknown_format_in_the_environment_is_a_usage_error(monkeypatch, capsys):
    monkeypatch.setenv("FW_FORMAT", "yaml")
    assert run(["doctor"]) == 2
    text = capsys.readouterr().err
    assert "FW_FORMAT is 'yaml'" in text and "json" in text


@pytest.mark.parametrize("arguments", [["up"], ["up", "--detach"], ["serve", "x.gguf"], ["status"], ["quickstart"]])
def test_a_home_that_cannot_be_used_is_no_bug(arguments, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "x.gguf").touch()
    monkeypatch.chdir(tmp_path)
    for home in (tmp_path / "file" / "home", "~nobody-of-that-name/home"):
        monkeypatch.setenv("FW_HOME", str(home))
        code, text = run(arguments), capsys.readouterr().err
        assert "bug" not in text and "Traceback" not in text, text
        assert code in (5, 9) and ("FW_HOME cannot be used" in text or code == 9)


@pytest.mark.skipif(os.geteuid() == 0, reason="the owner of the machine may write everywhere")
def test_a_home_that_is_read_only_is_no_bug(home, capsys):
    home.mkdir(mode=0o500)
    assert run(["up"]) == 5
    assert "FW_HOME cannot be used" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"fw {version('fw')}\n"


def test_the_hint_of_an_error_is_a_command(capsys):
    report(FwError("failed_precondition", "m", hint="wait for it: GET /v1/accounts/local/jobs/ev-1:wait"))
    assert "wait for it: fw job wait ev-1" in capsys.readouterr().err


def test_without_a_daemon_commands_say_how_to_start_one(capsys):
    assert run(["model", "list", "--format", "json"]) == CODES["unavailable"].exit_code == 9
    captured = capsys.readouterr()
    assert captured.out == "" and json.loads(captured.err)["error"]["hint"] == "fw up --detach"
    assert run(["down"]) == 0
    assert run(["logs"]) == 3


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_exit_code_is_the_tables(code, capsys):
    assert report(FwError(code, "what happened", not_done="nothing was done", hint="fw help")) == CODES[code].exit_code
    text = capsys.readouterr().err
    assert all(words in text for words in ("what happened", "othing was done", "fw help"))


def test_a_datasets_problems_are_listed_by_line(capsys):
    problems = [{"line": 7, "code": "bad_json", "message": "not JSON", "severity": "error"}]
    report(FwError("dataset_invalid", "1 row cannot be used", details={"report": {"problems": problems}}))
    assert "line 7: not JSON" in capsys.readouterr().err


def test_a_bug_is_one_line_and_its_traceback_is_in_the_log(home, capsys):
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError as error:
        assert report(error) == 1
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1 and "ZeroDivisionError" in text and str(home / "logs" / "cli.log") in text
    log = (home / "logs" / "cli.log").read_text()
    assert "Traceback" in log and "by nothing" in log
    assert (home / "logs").stat().st_mode & 0o077 == 0


def test_interrupting_a_command_ends_it_with_130(home):
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "daemon.log").write_text("first\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "fw_sdk.cli", "logs", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "first\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in err


def test_help_imports_nothing_heavy():
    heavy = ("pydantic", "httpx", "rich", "torch", "fastapi", "matplotlib", "mcp", "asyncio", "numpy")
    code = (
        "import sys; from fw_sdk.cli.run import run; run(['--help']); "
        f"print('IMPORTED', [m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "IMPORTED []"


def test_the_help_of_train_names_every_field():
    assert all(field in loop.TRAINING_HELP for field in TrainingConfig.model_fields)
    assert loop.key_values(["epochs=3", "learning-rate=1e-3"]) == {"epochs": "3", "learning_rate": "1e-3"}


def test_doctor_reports_every_check_and_its_fix(capsys):
    code = run(["doctor", "--format", "json"])
    findings = json.loads(capsys.readouterr().out)
    assert {"python", "torch", "bf16", "memory", "disk", "home", "daemon", "port"} <= {item["id"] for item in findings}
    assert all(item["fix"] for item in findings if item["status"] != "ok")
    assert code == int(any(item["status"] == "fail" for item in findings))
    assert not any("the check broke" in item["message"] for item in findings)


def test_doctor_sees_a_home_that_others_can_read(home, capsys):
    home.mkdir(mode=0o700, parents=True)
    home.chmod(0o755)
    run(["doctor", "--format", "json"])
    found = {item["id"]: item for item in json.loads(capsys.readouterr().out)}
    assert found["home"]["status"] == "warn" and "chmod go-rwx" in found["home"]["fix"]


def test_a_reader_that_goes_away_is_no_bug(home):
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "daemon.log").write_text("line\n" * 200_000)
    command = f"{sys.executable} -m fw_sdk.cli logs -n 200000 | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "line\n" and "Traceback" not in done.stderr and "bug" not in done.stderr
