"""Pulling from a hub: a local one, reached through huggingface-hub, that breaks off, lies and refuses."""

import os
import shutil
import signal
import threading

import numpy as np
import pytest

from engine.catalog import digest_model, hub_client, pull
from engine.catalog.tests.gguf_writer import LLAMA
from engine.catalog.tests.gguf_writer import gguf as write_gguf
from engine.catalog.tests.hub_server import Hub, Repo
from engine.jobs.files import read_json, read_lines, write_json
from engine.jobs.program import EXIT_CANCELLED, EXIT_DONE, EXIT_FAILED, main
from engine.jobs.specs import PullSpec

TOKEN = "let-me-in"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(hub_client, "PAUSE_S", 0.01)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")
    with Hub().running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def repo(hub, tiny_llama_dir):
    files = {file.name: file.read_bytes() for file in tiny_llama_dir.iterdir()}
    files |= {"README.md": b"# hi", "pytorch_model.bin": b"\x80pickle", "modeling.py": b"raise SystemExit"}
    hub.repos["org/tiny"] = Repo(files, licence="apache-2.0")
    return hub.repos["org/tiny"]


def pulled(tmp_path, source, name="job"):
    job = tmp_path / name
    job.mkdir(exist_ok=True)
    write_json(job / "spec.json", {"source": source, "modelsDir": str(tmp_path / "models")})
    status = main(PullSpec, pull.run, [str(job)])
    return status, read_json(job / "result.json"), read_json(job / "failure.json"), job


def failed(tmp_path, source):
    status, _, failure, _ = pulled(tmp_path, source)
    assert status == EXIT_FAILED
    return failure


def weights_of(repo):
    return repo.files["model.safetensors"]


def test_a_whole_pull(tmp_path, hub, repo, tiny_llama_dir):
    status, result, _, job = pulled(tmp_path, "hf:org/tiny")
    assert status == EXIT_DONE
    assert result["digest"] == digest_model(tiny_llama_dir)
    assert result["licence"] == "apache-2.0"
    names = {path.name for path in (tmp_path / "models" / result["digest"][7:]).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    asked = {request.path.rsplit("/", 1)[-1] for request in hub.requests}
    assert not asked & {"README.md", "pytorch_model.bin", "modeling.py"}
    progress = [e["data"] for e, _ in read_lines(job / "events.jsonl") if e["type"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == len(weights_of(repo))
    assert [path.name for path in (tmp_path / "models").iterdir() if path.name != ".hub"] == [result["digest"][7:]]
    assert list((tmp_path / "models" / ".hub").iterdir()) == []


def test_what_is_here_is_not_fetched_again(tmp_path, hub, repo):
    first = pulled(tmp_path, "hf:org/tiny", "one")[1]
    hub.requests.clear()
    assert pulled(tmp_path, "hf:org/tiny@v1", "two")[1] == {**first, "source": "hf:org/tiny@v1"}
    assert hub.of_file("model.safetensors") == []


def test_a_dropped_connection_is_resumed_at_once(tmp_path, hub, repo):
    size = len(weights_of(repo))
    repo.cut_at["model.safetensors"] = [size // 3, size // 2]
    assert pulled(tmp_path, "hf:org/tiny")[0] == EXIT_DONE
    transfers = hub.of_file("model.safetensors")
    assert [item.range for item in transfers] == [None, f"bytes={size // 3}-", f"bytes={size // 2}-"]
    assert sum(item.sent for item in transfers) == size


def test_the_next_attempt_goes_on_where_the_last_one_stopped(tmp_path, hub, repo):
    size = len(weights_of(repo))
    repo.cut_at["model.safetensors"] = [size // 2] + [0] * 10
    failure = failed(tmp_path, "hf:org/tiny")
    assert (failure["code"], failure["retryable"]) == ("unavailable", True)
    repo.cut_at.clear()
    hub.requests.clear()
    assert pulled(tmp_path, "hf:org/tiny")[0] == EXIT_DONE
    (transfer,) = hub.of_file("model.safetensors")
    assert transfer.range == f"bytes={size // 2}-"
    assert transfer.sent == size - size // 2
    assert hub.of_file("tokenizer.json") == []


def test_an_overloaded_hub_is_asked_again(tmp_path, hub, repo):
    pulled(tmp_path, "hf:org/tiny", "first")
    shutil.rmtree(tmp_path / "models")
    real = hub.answer

    def busy_at_files(handler):
        if "resolve" in handler.path and not hub.failing and busy:
            hub.failing = busy.pop()
        real(handler)

    busy = [2]
    hub.answer = busy_at_files
    assert pulled(tmp_path, "hf:org/tiny")[0] == EXIT_DONE


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer_config.json"])
def test_other_content_than_promised_is_refused(tmp_path, hub, repo, file):
    data = bytearray(repo.files[file])
    data[-1] ^= 1
    repo.swapped[file] = bytes(data)
    failure = failed(tmp_path, "hf:org/tiny")
    assert failure["code"] == "model_unsupported"
    assert file in failure["message"]
    repo.swapped.clear()
    assert pulled(tmp_path, "hf:org/tiny")[0] == EXIT_DONE


def test_cancelled_in_the_middle_and_resumed(tmp_path, hub, repo):
    size, sent = len(weights_of(repo)), threading.Event()
    repo.cut_at["model.safetensors"] = [size // 2]
    real = hub.answer

    def cancel_at_second_part(handler):
        if handler.headers.get("Range") and not sent.is_set():
            sent.set()
            os.kill(os.getpid(), signal.SIGTERM)
        real(handler)

    hub.answer = cancel_at_second_part
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert pulled(tmp_path, "hf:org/tiny")[0] == EXIT_CANCELLED
        assert [path.name for path in (tmp_path / "models").iterdir()] == [".hub"]
        hub.requests.clear()
        assert pulled(tmp_path, "hf:org/tiny")[0] == EXIT_DONE
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sum(item.sent for item in hub.of_file("model.safetensors")) <= size - size // 2


def test_a_gated_model_needs_a_token_that_goes_nowhere_else(tmp_path, hub, repo, monkeypatch, capfd):
    repo.gated = True
    failure = failed(tmp_path, "hf:org/tiny")
    assert failure["code"] == "permission_denied"
    assert "HF_TOKEN" in failure["hint"]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.requests.clear()
    assert pulled(tmp_path, "hf:org/tiny")[0] == EXIT_DONE
    for request in hub.requests:
        assert request.authorization == (None if request.path.startswith("/cdn") else f"Bearer {TOKEN}")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written
    assert TOKEN not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("source", "code", "word"),
    [
        ("hf:org/nothing", "not_found", "org/nothing"),
        ("hf:org/tiny@v9", "not_found", "v9"),
        ("hf:org/tiny:Q4_K_M", "not_found", "Q4_K_M"),
        ("hf:org tiny", "invalid_argument", "hf:org/name"),
        ("hf:../../etc", "invalid_argument", "hf:org/name"),
    ],
)
def test_what_is_not_there(tmp_path, hub, repo, source, code, word):
    failure = failed(tmp_path, source)
    assert failure["code"] == code
    assert word in failure["message"] + failure["hint"]


def test_no_hub_and_offline(tmp_path, hub, repo, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in failed(tmp_path, "hf:org/tiny")["message"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    failure = failed(tmp_path, "hf:org/tiny")
    assert (failure["code"], failure["retryable"]) == ("unavailable", True)
    assert "127.0.0.1:9" in failure["message"]


def test_only_pickles(tmp_path, hub):
    hub.repos["org/old"] = Repo({"config.json": b"{}", "pytorch_model.bin": b"x"})
    failure = failed(tmp_path, "hf:org/old")
    assert failure["code"] == "model_unsupported"
    assert "pytorch_model.bin" in failure["message"]


def test_no_tokenizer_that_fw_reads(tmp_path, hub, repo):
    repo.files["tokenizer.model"] = repo.files.pop("tokenizer.json")
    failure = failed(tmp_path, "hf:org/tiny")
    assert failure["code"] == "model_unsupported" and "tokenizer.json" in failure["message"]
    assert hub.of_file("model.safetensors") == []


def test_an_unknown_architecture_is_refused_before_its_weights_are_fetched(tmp_path, hub, repo):
    repo.files["config.json"] = b'{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}'
    assert failed(tmp_path, "hf:org/tiny")["code"] == "model_unsupported"
    assert hub.of_file("model.safetensors") == []


def test_only_the_shards_of_the_index(tmp_path, hub, tmp_path_factory):
    from conftest import save_tiny_llama, save_tiny_tokenizer

    folder = tmp_path_factory.mktemp("sharded")
    save_tiny_llama(folder, vocab_size=save_tiny_tokenizer(folder), max_shard_size="120KB")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert "model.safetensors.index.json" in files
    hub.repos["org/sharded"] = Repo({**files, "consolidated.safetensors": b"x" * 5000, "onnx/model.safetensors": b"y"})
    status, result, _, _ = pulled(tmp_path, "hf:org/sharded")
    assert status == EXIT_DONE
    assert result["digest"] == digest_model(folder)


@pytest.fixture
def ggufs(hub):
    data = {kind: write_gguf({**LLAMA, "kind": kind}, {"token_embd.weight": np.zeros((11, 8))}) for kind in "abc"}
    hub.repos["org/tiny-GGUF"] = Repo(
        {
            "tiny-Q4_K_M.gguf": data["a"],
            "tiny-Q4_K_S.gguf": data["b"],
            "Q8_0/tiny-Q8_0.gguf": data["c"],
            "tiny-F16-00001-of-00002.gguf": b"x",
            "tiny-F16-00002-of-00002.gguf": b"x",
            "mmproj-Q4_K_M.gguf": b"x",
        },
        lfs_from=0,
    )
    return hub.repos["org/tiny-GGUF"]


@pytest.mark.parametrize("variant", ["q4_k_m", "tiny-Q4_K_M.gguf", "Q8_0", "Q8_0/tiny-Q8_0.gguf"])
def test_one_gguf_of_many(tmp_path, hub, ggufs, variant):
    status, result, _, _ = pulled(tmp_path, f"hf:org/tiny-GGUF:{variant}")
    assert status == EXIT_DONE
    (file,) = (tmp_path / "models" / result["digest"][7:]).iterdir()
    assert file.suffix == ".gguf"
    hub.requests.clear()
    assert pulled(tmp_path, f"hf:org/tiny-GGUF:{variant}", "again")[1] == result
    assert not [request for request in hub.requests if "resolve" in request.path]


@pytest.mark.parametrize(
    ("variant", "code", "word"),
    [
        ("", "invalid_argument", "tiny-Q4_K_S.gguf"),
        (":Q4_K", "invalid_argument", "tiny-Q4_K_S.gguf"),
        (":Q5_K", "not_found", "tiny-Q4_K_S.gguf"),
        (":tiny", "invalid_argument", "tiny-Q4_K_S.gguf"),
        (":F16", "model_unsupported", "split into 2"),
    ],
)
def test_which_gguf(tmp_path, ggufs, variant, code, word):
    failure = failed(tmp_path, f"hf:org/tiny-GGUF{variant}")
    assert failure["code"] == code
    assert word in failure["message"]
