"""`python -m block_recurrent` lists every command, and starts none."""

import sys
from pathlib import Path

import pytest

import block_recurrent
from block_recurrent.__main__ import commands, main
from block_recurrent.console.cli import run_main


def run(monkeypatch, *arguments):
    """Run `python -m block_recurrent` in this process, and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["block_recurrent", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_main(main)
    return caught.value.code


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_every_command_has_a_line(arguments, monkeypatch, capsys):
    assert run(monkeypatch, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    sources = Path(block_recurrent.__file__).parent.glob("*.py")
    names = {path.stem for path in sources if "run_main(main)" in path.read_text("utf-8")}
    assert {"train", "evaluate", "generate"} <= names
    for name in names - {"__main__"}:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.split(maxsplit=1)[1][0].isupper() and "`" not in line and len(line) < 80


def test_a_new_command_is_listed_without_further_edits(monkeypatch, tmp_path):
    text = '"""Sing a song: ``python -m block_recurrent.sing --loud``.\n\nMore.\n"""\n'
    (tmp_path / "sing.py").write_text(text + '\nif __name__ == "__main__":\n    1 / 0\n')
    (tmp_path / "no_command.py").write_text(text)
    monkeypatch.setattr(block_recurrent, "__path__", [*block_recurrent.__path__, str(tmp_path)])
    assert commands()["sing"] == "Sing a song"
    assert "no_command" not in commands()


@pytest.mark.parametrize(
    "word, end",
    [
        ("train", "was given 'train': run python -m block_recurrent.train\n"),
        ("evalute", "was given 'evalute': run python -m block_recurrent.evaluate\n"),
        ("--gin_file=a", "was given '--gin_file=a': run python -m block_recurrent.COMMAND\n"),
    ],
)
def test_it_starts_no_command(word, end, monkeypatch, capsys):
    assert run(monkeypatch, word, "--workdir=a") == 2
    assert capsys.readouterr().err.endswith(end)
