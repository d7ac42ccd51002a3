"""Everything that only a GPU can tell, in one session of a few minutes, what is worth most first.

    python benchmarks/gpu_session.py --against=../36c1842 --meliad=../meliad --corpus=corpora/linux
    python benchmarks/gpu_session.py --parts=peers,step --minutes=6
    python benchmarks/gpu_session.py --rehearse                          # tiny, on a CPU

Each part has a time limit (in a rehearsal, only the session has). A part that reaches it is stopped
with all its processes, what it has measured is kept, and the session goes on. session.json and
session.md in --output have the results so far at any moment. What the programs print and write is
in --workdir.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu_parts import FULL, TOY, Command, Inputs, parts
from report import table

from block_recurrent.files.writing import atomic_write

LUCIDRAINS = "block_recurrent_transformer_pytorch"
MACHINE = "import json, report; print(json.dumps(report.machine()))"
SHOWN = 30  # last lines of what a program without a table has printed


def run(command: Command, seconds: float, folder: Path) -> dict[str, Any]:
    """Runs a program for at most `seconds`. Returns how it ended, and what it wrote or printed."""
    if command.left_out:
        return {"command": command.name, "ended": f"left out: {command.left_out}"}
    if seconds <= 0:
        return {"command": command.name, "ended": "left out: no time left"}
    if command.result:
        command.result.unlink(missing_ok=True)  # of an earlier session
    log, start = folder / f"{command.name}.log", time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command.arguments],
            env=os.environ | command.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
            ended = "done" if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        finally:
            stop_all(process)
    lines = log.read_text(errors="replace").splitlines()
    result = json.loads(command.result.read_text()) if _written(command.result) else None
    return {
        "command": command.name,
        "ended": ended,
        "seconds": time.monotonic() - start,
        "result": result,
        "printed": lines[-SHOWN:],
    }


def _written(result: Path | None) -> bool:
    return result is not None and result.exists()


def stop_all(process: subprocess.Popen):
    """Ends a process and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all have ended
    process.wait()


def run_all(commands: list[Command], seconds: float, folder: Path) -> list[dict[str, Any]]:
    """Runs commands one after the other, for at most `seconds` together."""
    end = time.monotonic() + seconds
    return [run(command, end - time.monotonic(), folder) for command in commands]


def page(session: dict[str, Any]) -> str:
    """The session as Markdown."""
    machine = ", ".join(f"{key}: {value}" for key, value in session["machine"].items())
    lines = ["# GPU session", "", machine, ""]
    for part in session["parts"]:
        lines += [f"## {part['title']}", ""]
        for each in part["commands"]:
            seconds = f", {each['seconds']:.0f} s" if "seconds" in each else ""
            lines += [f"`{each['command']}`: {each['ended']}{seconds}", ""]
            rows = (each.get("result") or {}).get("rows")
            if rows:
                lines += [table(rows), ""]
            if each.get("printed") and (not rows or each["ended"] != "done"):
                lines += ["```text", *each["printed"], "```", ""]
    return "\n".join(lines)


def write(session: dict[str, Any], folder: Path):
    """Writes the results so far; each file is whole at any moment."""
    for name, text in (
        ("session.json", json.dumps(session, indent=1)),
        ("session.md", page(session)),
    ):
        with atomic_write(folder / name) as file:
            file.write(f"{text}\n".encode())


def has_lucidrains(python: str) -> bool:
    check = f"import importlib.util, sys; sys.exit(not importlib.util.find_spec('{LUCIDRAINS}'))"
    return subprocess.run([python, "-c", check], capture_output=True).returncode == 0


def machine() -> dict[str, Any]:
    """In a process of its own, since it holds some of the GPU's memory."""
    command = [sys.executable, "-c", MACHINE]
    here = Path(__file__).parent
    return json.loads(subprocess.run(command, cwd=here, stdout=subprocess.PIPE, check=True).stdout)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12, help="limit of the whole session")
    parser.add_argument("--parts", default="", help="names, comma-separated; default: all")
    parser.add_argument("--against", type=Path, help="another checkout of ours")
    parser.add_argument("--meliad", type=Path, help="checkout of google-research/meliad")
    parser.add_argument(
        "--lucidrains_python", default=sys.executable, help="a Python with lucidrains' package"
    )
    parser.add_argument("--corpus", type=Path, help="file or folder of text, for the part 'text'")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on any device")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu_session"))
    parser.add_argument("--workdir", type=Path, help="for all other files (default: that folder)")
    args = parser.parse_args()
    names = [part.name for part in parts(FULL, Inputs(None, None, None, None), Path())]
    args.parts = args.parts.split(",") if args.parts else names
    for name in args.parts:
        if name not in names:
            parser.error(f"--parts: there is no part {name!r}: choose from {', '.join(names)}")
    for name in ("against", "meliad", "corpus"):
        path = getattr(args, name)
        if path and not path.exists():
            parser.error(f"--{name}: {path} does not exist")
    if not shutil.which(args.lucidrains_python):
        parser.error(f"--lucidrains_python: {args.lucidrains_python} is no program")
    return args


def main() -> None:
    start, args = time.monotonic(), parse()
    folder = args.workdir or args.output
    for each in (folder, args.output):
        each.mkdir(parents=True, exist_ok=True)
    # Parts compile the same programs.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.resolve() / "compiled"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    session = {"machine": machine(), "parts": []}
    if not args.rehearse and not any("NVIDIA" in name for name in session["machine"]["devices"]):
        sys.exit("error: JAX finds no NVIDIA GPU: install block_recurrent[cuda], or use --rehearse")
    python = args.lucidrains_python if has_lucidrains(args.lucidrains_python) else None
    inputs = Inputs(args.against, args.meliad, python, args.corpus)
    for part in parts(TOY if args.rehearse else FULL, inputs, folder.resolve()):
        if part.name not in args.parts:
            continue
        left = 60 * args.minutes - (time.monotonic() - start)
        limit = left if args.rehearse else min(left, part.seconds)  # of a GPU's speed
        commands = run_all(part.commands, limit, folder)
        session["parts"].append({"name": part.name, "title": part.title, "commands": commands})
        write(session, args.output)
        ends = ", ".join(f"{each['command']} {each['ended']}" for each in commands)
        print(f"{time.monotonic() - start:4.0f} s  {part.name}: {ends}", flush=True)
    print(f"\n{args.output / 'session.md'}")


if __name__ == "__main__":
    main()
