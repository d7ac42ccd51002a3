"""The commands from a user's view: what they print, how they exit, and what they do not touch."""

import argparse
import codecs
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import block_recurrent.analyze
import block_recurrent.evaluate
import block_recurrent.export
import block_recurrent.generate
import block_recurrent.train
from block_recurrent.config.run_config import load, to_gin
from block_recurrent.console.cli import CommandParser, run_main
from block_recurrent.data.vocabularies import ByteVocabulary, encode_prompt
from block_recurrent.errors import UserError
from block_recurrent.generation.generator import Generator
from block_recurrent.generation.sampling import Sampling
from block_recurrent.interop.model_file import save_model
from block_recurrent.training.checkpoints import Checkpoints
from corpus import WORDS, write_corpus
from tiny import make_model

PROGRAMS = {
    "train": block_recurrent.train.main,
    "analyze": block_recurrent.analyze.main,
    "evaluate": block_recurrent.evaluate.main,
    "export": block_recurrent.export.main,
    "generate": block_recurrent.generate.main,
}
REQUIRED = {"train": ["--gin_file=a"], "analyze": ["--output=a"], "export": ["--output=a"]}
TINY = ["--gin_file=gin/brt_fixed_gate.gin", "--gin_file=gin/scale/tiny.gin"]
TINY += ["--gin_file=gin/data/text_files.gin"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder of the commands: it has a corpus, and no clone of the repository."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "texts")
    return tmp_path


def bind(**values) -> list[str]:
    """``data__path="texts"`` as --gin_bindings of data.path."""
    pairs = [(name.replace("__", "."), value) for name, value in values.items()]
    return [f"--gin_bindings={name} = {value!r}" for name, value in pairs]


def command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"block_recurrent.{program}", *arguments]


def environment() -> dict[str, str]:
    """With the package on the path of any folder, installed or not."""
    return os.environ | {"PYTHONPATH": str(Path(block_recurrent.__file__).parent.parent)}


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder in it, with the contents of the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def run(run_command, caplog, recwarn):
    """Runs a command in this process. Returns exit status, standard output and standard error.

    Warnings count as standard error, where they would go without pytest.
    """

    def run(program: str, *arguments: str) -> tuple[int, str, str]:
        caplog.clear(), recwarn.clear()
        with caplog.at_level(logging.WARNING):
            status, out, err = run_command(PROGRAMS[program], *arguments)
        warnings = [record.getMessage() for record in caplog.records]
        warnings += [str(warning.message) for warning in recwarn]
        return status, out, "".join([err, *(f"{line}\n" for line in warnings)])

    return run


@pytest.fixture
def refuse(place, run):
    """Runs a command that must fail with one line and change no file. Returns that line."""

    def refuse(program: str, *arguments: str) -> str:
        before = contents(place)
        status, out, err = run(program, *arguments)
        assert (status, out) == (2, ""), err
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert contents(place) == before
        return err.removeprefix("error: ").rstrip()

    return refuse


# Paths


def test_every_path_may_begin_at_the_home_folder(monkeypatch):
    """Shells do not replace the ~ in --workdir=~/run, since it does not begin a word."""
    monkeypatch.setenv("HOME", "/home/me")
    parsers = []

    def parse(parser):
        parsers.append(parser)
        return argparse.Namespace(output=None, inspect=True)

    monkeypatch.setattr(CommandParser, "parse_args", parse)
    for path in sorted(Path(block_recurrent.__file__).parent.glob("*.py")):
        if "CommandParser(" in path.read_text():
            importlib.import_module(f"block_recurrent.{path.stem}").parse_arguments()
    assert len(parsers) >= 7
    for parser in parsers:
        for action in parser._actions:
            if action.metavar in ("FILE", "DIR", "FILE.html") and action.dest != "gin_file":
                assert str(action.type("~/a")) == "/home/me/a", (parser.prog, action.dest)
                assert str(action.type("~no-user/a")) == "~no-user/a"


def test_a_run_in_the_home_folder(place, refuse, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    assert refuse("evaluate", "--workdir=~/texts").startswith(f"{place}/texts contains no run")
    assert refuse("generate", "--prompt_file=~/no").startswith(
        f"cannot read --prompt_file={place}/no"
    )


# Mistakes


def test_unknown_gin_file(refuse):
    message = refuse("train", "--gin_file=gin/brt_fixd_gate.gin")
    assert message.startswith("no gin file 'gin/brt_fixd_gate.gin' in ")
    assert message.endswith(": did you mean gin/brt_fixed_gate.gin?")


def test_unknown_parameter(refuse):
    assert refuse("train", *TINY, *bind(data__path="texts", train__num_step=3)) == (
        "--gin_bindings: train has no parameter 'num_step': did you mean train.num_steps?"
    )


def test_segment_must_be_a_multiple_of_the_window(refuse):
    assert refuse("train", *TINY, *bind(data__path="texts", train__segment_length=60)) == (
        "train.segment_length = 60 is not a multiple of BlockRecurrentTransformer.window_length = "
        "16: 48 and 64 are the nearest"
    )


def test_empty_corpus(refuse, place):
    (place / "empty").mkdir()
    assert refuse("train", *TINY, *bind(data__path="empty")).startswith("no file in empty matches")
    (place / "empty" / "a.txt").touch()
    assert refuse("train", *TINY, *bind(data__path="empty")).startswith("every file in empty")
    nothing = bind(data__path="texts", data__glob="*.md")
    assert "matches data.glob = '*.md'" in refuse("train", *TINY, *nothing)


def test_unreadable_corpus(refuse, monkeypatch):
    assert refuse("train", *TINY, *bind(data__path="nowhere")).startswith(
        "data.path = 'nowhere' does not exist"
    )
    access = os.access  # simulated, because root may read everything
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p).name != "3.txt" and access(p, mode))
    message = refuse("train", *TINY, *bind(data__path="texts"))
    assert message.startswith("no permission to read texts/3.txt")


def test_workdir_that_holds_another_configuration(refuse, place):
    data = [f"data.path = '{place}/texts'", "data.vocabulary = 'bytes'"]
    config = load([argument.partition("=")[2] for argument in TINY], data)
    (place / "mine").mkdir()
    (place / "mine" / "config.gin").write_text(to_gin(config))
    changes = bind(data__path="texts", train__seed=7, optimizer__learning_rate=0.5)
    assert refuse("train", *TINY, "--workdir=mine", *changes) == (
        "mine contains a run with another configuration (train.seed: 0 in the workdir, 7 now; "
        f"optimizer.learning_rate: {config.optimizer.learning_rate} in the workdir, 0.5 now): "
        "make the configurations equal, name another --workdir (train.initial_model can start it "
        "from an export of this run), or add --allow_changes to continue this run with the changes"
    )


def test_more_steps_under_a_schedule_that_ends(refuse, place):
    """A run of 20 steps is to be continued to 30: the message says how."""
    data = [f"data.path = '{place}/texts'", "data.vocabulary = 'bytes'"]
    config = load([argument.partition("=")[2] for argument in TINY], data)
    (place / "mine").mkdir()
    (place / "mine" / "config.gin").write_text(to_gin(config))
    more = bind(data__path="texts", train__num_steps=30)
    message = refuse("train", *TINY, "--workdir=mine", *more)
    assert "optimizer.decay_steps: 20 in the workdir, 30 now" in message
    assert "(optimizer.decay_steps = 20, which is train.num_steps unless it is set, k" in message


def test_workdir_that_cannot_be_made(refuse):
    arguments = *TINY, *bind(data__path="texts")
    assert refuse("train", *arguments, "--workdir=texts/0.txt").startswith("cannot write to texts/")
    assert refuse("train", *arguments, "--workdir=texts/0.txt/a").startswith("cannot write to ")


def test_token_outside_the_vocabulary(refuse):
    changes = bind(data__path="texts", BlockRecurrentTransformer__vocab_size=200)
    assert refuse("train", *TINY, *changes) == (
        "the corpus has tokens up to 259, but the model's vocab_size is 200: "
        "set BlockRecurrentTransformer.vocab_size = 260"
    )


def test_weights_and_biases_without_its_package(refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert refuse("train", *TINY, *bind(data__path="texts", train__wandb_project="blocks")) == (
        "train.wandb_project = 'blocks' needs the package wandb: pip install wandb, or set "
        "train.wandb_project = None"
    )


@pytest.mark.parametrize("program", ["evaluate", "generate", "analyze", "export"])
def test_a_step_that_is_none(refuse, program):
    required = REQUIRED.get(program, [])
    assert refuse(program, "--workdir=nowhere", *required, "--step=bset") == (
        "argument --step: 'bset' is no step: give a number, best or latest (--help lists all "
        "arguments)"
    )


def test_evaluation_without_a_run(refuse):
    end = " contains no run (no config.gin): train first, or name another folder"
    for option in ("json", "report"):
        message = refuse("evaluate", "--workdir=nowhere", f"--{option}=texts")
        assert message == f"--{option}=texts is a folder: give the path of a file"
    for folder in ("nowhere", "texts", "texts/0.txt"):
        assert refuse("evaluate", f"--workdir={folder}") == folder + end


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no prompt: give --prompt or --prompt_file, or continue from a --state"),
        (
            ["--prompt=a", "--prompt_file=b"],
            "--prompt and --prompt_file exclude each other: give one",
        ),
        (["--prompt_file=b"], "cannot read --prompt_file=b (No such file or directory)"),
        (["--prompt_file=empty"], "--prompt_file=empty is empty: to begin a new document"),
        (["--prompt_file=texts"], "cannot read --prompt_file=texts (Is a directory)"),
        (
            ["--prompt_file=latin1"],
            "--prompt_file=latin1 is not UTF-8 (byte 4 is 0xe9): convert it, for example with",
        ),
        (["--prompt_file=mark"], "--prompt_file=mark is empty: to begin a new document"),
        (
            ["--prompt_file=utf16"],
            "--prompt_file=utf16 is not UTF-8 (byte 1 is 0xff): convert it, for example with "
            "iconv -f UTF-16 -t UTF-8",
        ),
        (["--prompt_file=mark"], "--prompt_file=mark is empty: to begin a new document"),
        (
            ["--prompt_file=utf16"],
            "--prompt_file=utf16 is not UTF-8 (byte 1 is 0xff): convert it, for example with "
            "iconv -f UTF-16 -t UTF-8",
        ),
        (["--prompt_file=cut"], "--prompt_file=cut is not UTF-8 (byte 4 is 0xc3): convert it"),
        (["--prompt=a", "--num_tokens=-1"], "--num_tokens=-1: give 0 or more"),
        (["--prompt=a", "--seed=-1"], "--seed=-1: give a number from 0 to 2**32 - 1"),
        (["--prompt=a", "--top_p=2"], "top_p = 2.0: must be above 0 and at most 1, or None"),
        (
            ["--prompt=a", "--save_state=no/b"],
            "no folder no for --save_state=no/b: create it first",
        ),
        (
            ["--prompt=a", "--save_state=texts"],
            "--save_state=texts is a folder: give the path of a file",
        ),
        (
            ["--prompt=a"],
            "texts contains no run (no config.gin): train first, or name another folder",
        ),
    ],
)
def test_mistakes_in_generation(arguments, message, refuse, place):
    (place / "empty").touch()
    (place / "latin1").write_bytes("café".encode("latin1"))
    (place / "mark").write_bytes(codecs.BOM_UTF8)
    (place / "utf16").write_text("café", encoding="utf-16")
    (place / "mark").write_bytes(codecs.BOM_UTF8)
    (place / "utf16").write_text("café", encoding="utf-16")
    (place / "cut").write_bytes("café".encode()[:-1])
    assert refuse("generate", "--workdir=texts", *arguments).startswith(message)


@pytest.fixture
def ending_model(place):
    """A model file, and a prompt after which the most likely token is the end of the document."""
    model, prompt = make_model(num_layers=1, recurrent_layers=()), b"a b"
    tokens = ByteVocabulary().encode(prompt)
    [[likely]] = Generator(model).generate([tokens], 1, sampling=Sampling(temperature=0))
    rows = model.embedding[...]  # of the input and of the output
    model.embedding[...] = rows.at[ByteVocabulary.end_id].set(2 * rows[likely])  # doubles its logit
    save_model(place / "model", model, vocabulary="bytes")
    return prompt.decode()


def test_a_text_that_ends_at_once(place, run, ending_model):
    arguments = "--model=model", "--temperature=0", f"--prompt={ending_model}"
    expected = "no text: the model ended the document at once; try another --seed or another prompt"
    assert run("generate", *arguments) == (0, "", f"{expected}\n")
    assert run("generate", *arguments, "--num_tokens=0") == (0, "", "")
    assert run("generate", "--model=model", "--prompt=a", "--num_tokens=4")[2] == ""


@pytest.mark.slow
def test_a_prompt_from_standard_input(place, ending_model):
    def generate(prompt: bytes, *arguments: str):
        given = "--model=model", "--temperature=0", "--num_tokens=8", *arguments
        return subprocess.run(
            command("generate", *given), input=prompt, env=environment(), capture_output=True
        )

    (place / "file").write_text("ein café", encoding="utf-8-sig")  # with a byte-order mark
    result = generate("ein café".encode(), "--prompt_file=-")
    assert (result.returncode, result.stderr) == (0, b"") and result.stdout
    assert generate(b"", "--prompt_file=file").stdout == result.stdout
    for prompt, message in ((b"", "- is empty: to begin"), (b"\xff", "- is not UTF-8 (byte 1 is")):
        result = generate(prompt, "--prompt_file=-")
        assert result.returncode == 2 and result.stdout == b""
        assert result.stderr.startswith(f"error: --prompt_file={message}".encode())


def test_a_prompt_outside_the_vocabulary():
    class Lacking(ByteVocabulary):
        unknown_id = 2

        def encode(self, text):
            return np.where(np.frombuffer(text, np.uint8) == ord("~"), 2, 9)

    with pytest.raises(UserError, match="not in the model's vocabulary .~.: remove or replace"):
        encode_prompt(b"a~b~", Lacking(), "the prompt")


def test_evaluation_without_a_checkpoint(place):
    """In a separate process, with everything that libraries print."""
    config = load([argument.partition("=")[2] for argument in TINY], ["data.path = 'texts'"])
    (place / "mine").mkdir()
    (place / "mine" / "config.gin").write_text(to_gin(config))
    before = contents(place)
    result = subprocess.run(
        command("evaluate", "--workdir=mine"), env=environment(), capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: no checkpoint in {place}/mine/checkpoints: train first, or name another workdir\n"
    )
    assert contents(place) == before


def test_ctrl_c_is_one_line(capsys):
    def main():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(9)

    with pytest.raises(SystemExit) as exit:
        run_main(main)
    assert exit.value.code == 130 and capsys.readouterr() == ("", "stopped\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help(program, run):
    status, out, err = run(program, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: python -m block_recurrent.{program} ") and "--workdir" in out
    assert "\nexamples:\n  python -m block_recurrent." in out and "Exit status: 0 " in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("program", PROGRAMS)
def test_mistakes_in_the_arguments(program, refuse):
    """One line, like any other mistake, which names the argument and says what argparse hides."""
    end = " (--help lists all arguments)"
    for place in ("s3://bucket/run", "gs://"):
        assert refuse(program, f"--workdir={place}") == (
            f"argument --workdir: {place} cannot hold a run: name a folder on disk, or "
            f"gs://bucket/run{end}"
        )
    message = refuse(program, "--workdir=runs/a", "--workdri=runs/b", *REQUIRED.get(program, ()))
    assert message == f"unrecognized arguments: --workdri=runs/b{end}"


# From the first step to the evaluation


@pytest.mark.long
@pytest.mark.slow
def test_a_stop_and_the_same_command_again(place, run, monkeypatch):
    """SIGTERM saves and exits with 75. Then the run is continued, evaluated and sampled from."""
    steps = bind(train__num_steps=400, train__log_every_steps=2, train__eval_every_steps=400)
    quick = bind(BlockRecurrentTransformer__num_layers=2, optimizer__name="adamw")  # to compile
    train = command("train", *TINY, *steps, *quick, *bind(data__path="texts"))
    workdir = place / "runs" / "brt_fixed_gate"
    log = workdir / "metrics.jsonl"

    process = subprocess.Popen(train, env=environment(), stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        assert time.monotonic() < deadline, "no metrics yet"
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 75
    with Checkpoints(workdir, read_only=True) as checkpoints:
        stopped = checkpoints.find_latest_intact()
    assert 0 < stopped < 400

    result = subprocess.run(train, env=environment(), capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"continuing from step {stopped}\n" in result.stdout
    assert "gzip -9" in result.stdout.splitlines()[-1]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    trained = [line["step"] for line in lines if line["split"] == "train"]
    assert trained == list(range(2, 401, 2))

    before = contents(workdir)
    monkeypatch.chdir(place.parent)  # the run knows where its corpus is
    status, out, err = run("evaluate", f"--workdir={workdir}", "--json=nowhere/score.json")
    assert (status, out) == (2, "")
    assert err == "error: no folder nowhere for --json=nowhere/score.json: create it first\n"
    status, out, err = run("evaluate", f"--workdir={workdir}", "--json=score.json")
    assert (status, err) == (0, "")
    score = json.loads((place.parent / "score.json").read_text())
    assert sum(score.pop("by_distance")["tokens"]) == score["tokens"]
    assert (score["step"], score["split"]) == (400, "held_out")
    printed = dict(line.split() for line in out.splitlines())
    assert list(printed) == list(score)
    for name, value in score.items():
        assert printed[name] == (f"{value:.6f}" if isinstance(value, float) else str(value))
    logged = lines[-1]
    assert (logged["step"], logged["split"]) == (400, "held_out")
    for name in ("loss", "bits_per_token", "bits_per_byte"):
        assert score[name] == pytest.approx(logged[name], rel=1e-5)
    assert contents(workdir) == before
    check_generation(run, workdir, place)


def check_generation(run, workdir: Path, place: Path):
    """Generates text: the same for the same seed, and the same in two parts as in one."""

    def write(*arguments: str) -> str:
        status, out, err = run("generate", f"--workdir={workdir}", *arguments)
        assert (status, err) == (0, "")
        return out

    prompt = "the state of a block is carried from one window to the "
    whole = write(f"--prompt={prompt}", "--num_tokens=60", "--temperature=0")
    assert set(whole.split()[1:-1]) <= set(WORDS), "it has learned nothing"
    (place / "prompt.txt").write_text(prompt)
    assert write(f"--prompt={prompt}", "--num_tokens=0", f"--save_state={place}/read.st") == ""
    draw = "--num_tokens=40", "--temperature=0.8", "--top_p=0.9", "--seed=3"
    first = write(f"--prompt_file={place}/prompt.txt", *draw, f"--save_state={place}/state.st")
    rest = write(f"--state={place}/state.st", *draw)
    assert first == write(f"--state={place}/read.st", *draw)
    assert first + rest == write(f"--prompt={prompt}", "--num_tokens=80", *draw[1:])
    file = place / "model.safetensors"
    status, out, err = run("export", f"--workdir={workdir}", f"--output={file}")
    assert (status, out, err) == (0, f"{file}: {file.stat().st_size:,} bytes, step 400\n", "")
    more = f"--prompt={prompt}", "--num_tokens=60", "--temperature=0"
    assert run("generate", f"--model={file}", *more) == (0, whole, "")
    gin = workdir / "config.gin"
    gin.write_text(gin.read_text().replace("embedding_size = ", "embedding_size = 1"))
    status, out, err = run("generate", f"--workdir={workdir}", "--prompt=a")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "has other parameters than config.gin describes" in err
