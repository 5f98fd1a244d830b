"""Tokens: made once, whole, whoever asks at the same time; never empty."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from fw_sdk.types import FwError
from fw_sdk.types.home import Home

ASK = "import sys; from pathlib import Path; from fw_sdk.types.home import Home; print(Home(Path(sys.argv[1])).token())"


@pytest.mark.parametrize("content", [None, "", "  \n\t"])
def test_processes_and_threads_that_ask_at_once_get_one_token(tmp_path, content):
    home = Home(tmp_path)
    if content is not None:
        home.token_file.write_text(content)
    processes = [
        subprocess.Popen([sys.executable, "-c", ASK, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: home.token(), range(32)))
    tokens |= {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(tokens) == 1 and tokens == {home.token_file.read_text()}
    assert len(tokens.pop()) > 40 and home.token_file.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"token", "token.lock"}


def test_a_token_stays_and_is_not_the_reading_one(tmp_path):
    home = Home(tmp_path)
    home.token_file.write_text(" mine\n")
    assert home.token() == "mine" == home.token()
    assert home.reading_token().startswith("fw_read_") and home.reading_token() == home.reading_token() != "mine"


@pytest.mark.parametrize("content", [b"two words", b"\xff\xfe", "schlüssel".encode(), b"a\nb"])
def test_a_file_that_holds_no_token_is_said_and_kept(tmp_path, content):
    home = Home(tmp_path)
    home.token_file.write_bytes(content)
    with pytest.raises(FwError) as caught:
        home.token()
    assert caught.value.code == "unauthenticated" and str(home.token_file) in caught.value.message
    assert home.token_file.read_bytes() == content


def test_a_place_that_cannot_hold_a_token_is_a_typed_error(tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FwError) as caught:
            Home(root).token()
        assert caught.value.code == "failed_precondition" and "FW_HOME" in caught.value.hint
    (tmp_path / "home" / "token").mkdir(parents=True)
    with pytest.raises(FwError):
        Home(tmp_path / "home").token()
