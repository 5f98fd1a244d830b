"""Files are whole or absent, whatever is interrupted."""

import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from engine.jobs.files import append_line, read_json, read_lines, tail, write_atomic, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(values=st.lists(JSON, max_size=8), cut=st.integers(0, 40), split=st.integers(0, 8))
def test_reading_from_any_offset_neither_loses_nor_repeats_a_line(tmp_path_factory, values, cut, split):
    path = tmp_path_factory.mktemp("lines") / "events.jsonl"
    for value in values:
        append_line(path, value)
    if values:
        torn = json.dumps("x" * 40).encode()[:cut]
        with path.open("ab") as file:
            file.write(torn)
    seen = list(read_lines(path))
    assert [value for value, _ in seen] == values
    offset = seen[split - 1][1] if 0 < split <= len(seen) else 0
    rest = [value for value, _ in read_lines(path, offset)]
    assert rest == values[split:] if 0 < split <= len(seen) else rest == values


def test_a_torn_line_in_the_middle_is_skipped(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": \n{"c": 3}\n')
    assert [value for value, _ in read_lines(path)] == [{"a": 1}, {"c": 3}]


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, {"old": True})
    code = (
        "import resource, sys, pathlib\n"
        "from engine.jobs.files import write_atomic\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        f"write_atomic(pathlib.Path({str(path)!r}), b'x' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "File too large" in done.stderr
    assert read_json(path) == {"old": True}
    assert [child.name for child in tmp_path.iterdir()] == ["state.json"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100


def test_only_the_owner_reads_what_is_written(tmp_path):
    write_atomic(tmp_path / "secret", b"x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_tail_reads_the_end_of_a_long_log(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("\n".join(f"line {number}" for number in range(100_000)))
    assert tail(path, 2) == ["line 99998", "line 99999"]
    assert tail(tmp_path / "absent", 2) == []


def test_any_number_of_writers_of_one_file_all_succeed(tmp_path):
    path = tmp_path / "state.json"
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: write_json(path, number), range(200))) == [None] * 200
    assert read_json(path) in range(200)
    assert [child.name for child in tmp_path.iterdir()] == ["state.json"]
