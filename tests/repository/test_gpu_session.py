"""The session on a GPU: rehearsed on a CPU, and what becomes of a program that takes too long."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLEEP = "import subprocess, sys; subprocess.run(['sleep', '600'])"
PRINT_AND_SLEEP = f"print('half of it', flush=True); {SLEEP}"


@pytest.fixture(scope="module")
def session():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("gpu_session")
    sys.path.remove(str(ROOT / "benchmarks"))


def command(session, name: str, code: str, result: Path | None = None, **fields):
    return session.Command(name, ["-c", code], result, **fields)


@pytest.mark.repository
def test_a_program_that_takes_too_long_is_stopped_and_the_session_goes_on(session, tmp_path):
    result = tmp_path / "slow.json"
    rows = f"open({str(result)!r}, 'w').write('{{\"rows\": [{{\"a\": 1}}]}}'); "
    start = time.monotonic()
    slow = session.run(command(session, "slow", rows + PRINT_AND_SLEEP, result), 3, tmp_path)
    assert time.monotonic() - start < 60
    assert slow["ended"] == "stopped after 3 s"
    assert slow["printed"] == ["half of it"]
    assert slow["result"] == {"rows": [{"a": 1}]}, "what it had measured"
    sleeping = subprocess.run(["pgrep", "-f", "^sleep 600$"], capture_output=True, text=True)
    assert not [pid for pid in sleeping.stdout.split() if started_in(pid, tmp_path)]
    quick = session.run(command(session, "quick", "print('all')"), 60, tmp_path)
    assert (quick["ended"], quick["printed"]) == ("done", ["all"])


def started_in(pid: str, folder: Path) -> bool:
    """Whether the standard output of a process is a file in the folder."""
    try:
        return Path(os.readlink(f"/proc/{pid}/fd/1")).parent == folder
    except OSError:  # it has ended, or is another user's
        return False


@pytest.mark.repository
def test_the_limit_is_for_all_commands_of_a_part(session, tmp_path):
    commands = [command(session, name, SLEEP) for name in ("first", "second")]
    first, second = session.run_all(commands, 0.5, tmp_path)
    assert first["ended"].startswith("stopped after")
    assert second["ended"] == "left out: no time left"


@pytest.mark.repository
def test_the_page_says_what_failed_and_what_is_left_out(session, tmp_path):
    commands = [
        command(session, "broken", "import sys; sys.exit('the reason')"),
        session.Command("absent", left_out="nothing to compare with"),
    ]
    earlier = tmp_path / "broken.json"
    earlier.write_text('{"rows": [{"a": 1}]}')
    commands[0] = commands[0]._replace(result=earlier)
    ended = session.run_all(commands, 60, tmp_path)
    assert ended[0]["result"] is None, "that of an earlier session"
    part = {"name": "a", "title": "A part", "commands": ended}
    session.write({"machine": {"cpu": "one"}, "parts": [part]}, tmp_path)
    page = (tmp_path / "session.md").read_text(encoding="utf-8")
    assert "`broken`: failed with status 1" in page
    assert "\nthe reason\n" in page
    assert "`absent`: left out: nothing to compare with" in page
    assert json.loads((tmp_path / "session.json").read_text())["parts"] == [part]


@pytest.mark.repository
@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--parts=peers,stepp"], "there is no part 'stepp'"),
        (["--meliad=nowhere"], "--meliad: nowhere does not exist"),
        (["--lucidrains_python=nowhere"], "--lucidrains_python: nowhere is no program"),
    ],
)
def test_wrong_arguments(session, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(sys, "argv", ["gpu_session.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        session.main()
    assert words in capsys.readouterr().err


def rehearse(corpus, folder: Path, *words: str) -> dict:
    """Rehearses the session, and returns its session.json."""
    words = ["--rehearse", f"--against={ROOT}", f"--corpus={corpus}", f"--output={folder}", *words]
    words += ["--minutes=30"]  # the machine is busy with other tests
    program = [sys.executable, ROOT / "benchmarks/gpu_session.py", *words]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "session.json").read_text())
    page = (folder / "session.md").read_text(encoding="utf-8")
    assert found["parts"] and all(f"## {part['title']}" in page for part in found["parts"])
    return found


@pytest.mark.slow
def test_rehearsal_of_two_parts(corpus, tmp_path):
    found = rehearse(corpus, tmp_path, "--parts=kernels,profile")
    commands = [each for part in found["parts"] for each in part["commands"]]
    assert [each["command"] for each in commands] == ["kernels", "kernels_ftz", "profile"]
    assert all(each["ended"] == "done" and each["result"]["rows"] for each in commands)


@pytest.mark.long
def test_rehearsal(corpus, tmp_path):
    found = rehearse(corpus, tmp_path)
    ended = {
        each["command"]: (each["ended"], each)
        for part in found["parts"]
        for each in part["commands"]
    }
    missing = {name: how for name, (how, _) in ended.items() if how != "done"}
    assert missing.pop("meliad") == "left out: no checkout: --meliad=FOLDER"
    lucidrains = {"lucidrains", "decoding_peer"}
    assert all("this Python has no" in missing.pop(name) for name in lucidrains & missing.keys())
    assert not missing, ended
    names = [part["name"] for part in found["parts"]]
    assert names == ["peers", "step", "kernels", "profile", "decoding", "options", "text"]
    for name, (_, each) in ended.items():
        if each.get("result"):
            assert each["result"]["rows"], name
    batches = [row["batch"] for row in ended["peers"][1]["result"]["rows"]]
    assert batches[:2] == [4, 8]
