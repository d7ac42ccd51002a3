"""prepare_data as a user meets it: what it writes, what it survives, and what it says."""

import errno
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

import block_recurrent.prepare_data
from block_recurrent.cli import run_main
from block_recurrent.data import DataConfig, load_documents
from block_recurrent.data.prepare_progress import PrepareProgress
from block_recurrent.data.quiet_tensorflow import import_tensorflow
from block_recurrent.data.store import open_stores
from block_recurrent.data.store_writer import _File

import_tensorflow()  # before anything else does, which would print

from block_recurrent.data import folder_source  # noqa: E402
from books import BOOKS, text_of, train_model, write_books  # noqa: E402
from my_tasks import TEXT  # noqa: E402

TESTS = Path(__file__).parent
PACKAGE = Path(block_recurrent.prepare_data.__file__).parent


@pytest.fixture(scope="module")
def pg19(tmp_path_factory):
    return str(write_books(tmp_path_factory.mktemp("tfds")))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(train_model(tmp_path_factory.mktemp("vocabulary") / "t5.model"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder: files of lines and of texts, and no clone."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "texts", {f"{i}.txt": text_of(i).encode() for i in range(12)})
    lines = {f"{i}.txt": b"".join(b"%d/%d\n" % (i, j) for j in range(6)) for i in range(8)}
    write_texts(tmp_path / "lines", lines)
    return tmp_path


@pytest.fixture
def run(place, monkeypatch, capfd):
    """Runs the program in this process: (exit status, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prepare_data", *arguments])
        handler = signal.getsignal(signal.SIGTERM)
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            run_main(block_recurrent.prepare_data.main)
        signal.signal(signal.SIGTERM, handler)
        return exit.value.code, *capfd.readouterr()

    return run


@pytest.fixture
def prepare(run):
    """Runs it where it must succeed. Returns what it prints."""

    def prepare(output: str, *arguments: str) -> str:
        status, out, err = run(f"--output={output}", *ONE_PROCESS, *arguments)
        assert (status, err) == (0, ""), out
        return out

    return prepare


@pytest.fixture
def refuse(run, place):
    """Runs it where it must refuse, properly and without a trace. Returns what it says."""

    def refuse(*arguments: str, output: str = "store") -> str:
        before = contents(place)
        status, out, err = run(f"--output={output}", *ONE_PROCESS, *arguments)
        assert (status, out) == (2, "")
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert contents(place) == before
        return err.removeprefix("error: ").rstrip()

    return refuse


def write_texts(folder: Path, files: dict[str, bytes]):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)


def bind(**values) -> list[str]:
    """``data__path="texts"`` as --gin_bindings of data.path."""
    pairs = [(name.replace("__", "."), value) for name, value in values.items()]
    return [f"--gin_bindings={name} = {value!r}" for name, value in pairs]


def data(name: str) -> str:
    return f"--gin_file=gin/data/{name}.gin"


def mine(task: str, **values) -> list[str]:
    return bind(prepare__module="my_tasks", prepare__task=task, **values)


ONE_PROCESS = bind(prepare__num_processes=1)
TEXTS = [data("text_files"), *bind(data__path="texts")]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with what the files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def documents_of(store: Path | str, split: str) -> dict[str, list[int]]:
    """The tokens of each document, by name; the end is taken off."""
    ((documents, _),) = open_stores(store)[split]
    tokens = {
        name: documents.tokens(i, 0, int(length)).tolist()
        for i, (name, length) in enumerate(zip(documents.names, documents.lengths, strict=True))
    }
    assert all(ids[-1] == 1 for ids in tokens.values())
    return {name: ids[:-1] for name, ids in tokens.items()}


def texts_of(store: Path | str, split: str) -> dict[str, bytes]:
    """The documents of a store of bytes, by name."""
    tokens = documents_of(store, split)
    return {
        name: (np.array(ids, int) - 3).astype(np.uint8).tobytes() for name, ids in tokens.items()
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "block_recurrent.prepare_data", *arguments]


def environment() -> dict[str, str]:
    """Finds the package and the tests' Tasks from any folder, installed or not."""
    return os.environ | {"PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{TESTS}"}


# Stores of every kind


def test_pg19_bytes(prepare, pg19):
    out = prepare("store", data("pg19_bytes"), *bind(prepare__tfds_data_dir=pg19))
    books = {split: {str(b): text_of(b).encode() for b in books} for split, books in BOOKS.items()}
    for split, name in {"train": "train", "validation": "held_out", "test": "test"}.items():
        assert texts_of("store", name) == books[split]
    train = books["train"].values()
    tokens, words = sum(map(len, train)) + 17, sum(len(text.split()) for text in train)
    assert (
        f"store train: 17 documents, {tokens:,} tokens, {tokens - 17:,} bytes, {words:,} words; "
        "0 empty documents left out, 0 with invalid UTF-8\n"
    ) in out
    assert out.startswith("12 shards to write, 1 at a time\n")
    assert out.endswith(
        "train from it by data.corpus = 'store', data.stores = ('store',), "
        "BlockRecurrentTransformer.vocab_size = 260\n"
    )
    loaded = load_documents(DataConfig("store", stores=("store",)))
    assert loaded["train"].num_words == words and loaded["train"].vocabulary.name == "bytes"


def test_training_and_evaluation_on_pg19(prepare, pg19, place):
    """From TFDS through seqio and the store to a model, by the commands of the README."""
    prepare("store", data("pg19_bytes"), *bind(prepare__tfds_data_dir=pg19))

    def run(program: str, *arguments: str) -> tuple[int, str, str]:
        line = [sys.executable, "-m", f"block_recurrent.{program}", "--workdir=run", *arguments]
        result = subprocess.run(line, env=environment(), capture_output=True, text=True)
        return result.returncode, result.stdout, result.stderr

    files = [f"--gin_file=gin/{name}.gin" for name in ("brt_fixed_gate", "scale/tiny")]
    quick = bind(train__num_steps=2, BlockRecurrentTransformer__num_layers=2)
    status, out, err = run(
        "train", *files, data("pg19_bytes"), *quick, *bind(data__stores=("store",))
    )
    assert (status, err) == (0, "") and "step 2: held-out bits per byte" in out
    status, out, err = run("evaluate", "--split=test")
    assert (status, err) == (0, "")
    score = dict(line.split() for line in out.splitlines())
    test = load_documents(DataConfig("store", stores=("store",)))["test"]
    assert (int(score["tokens"]), int(score["words"])) == (test.num_tokens, test.num_words)
    nats_per_word = float(score["loss"]) * test.num_tokens / test.num_words
    assert float(score["word_perplexity"]) == pytest.approx(math.exp(nats_per_word), rel=1e-3)
    status, out, err = run("evaluate", "--split=tset")
    assert (status, out) == (2, "")
    assert err == "error: no split tset: choose from train, held_out, test\n"


def test_pg19_tokens(prepare, pg19, model):
    bindings = bind(prepare__tfds_data_dir=pg19, prepare__vocabulary=model)
    prepare("store", data("pg19_tokens"), *bindings)
    processor = SentencePieceProcessor(model_file=model)
    expected = {str(book): processor.encode(text_of(book)) for book in BOOKS["train"]}
    assert documents_of("store", "train") == expected
    assert Path("store/vocabulary.model").read_bytes() == Path(model).read_bytes()
    vocabulary = load_documents(DataConfig("store", stores=("store",)))["train"].vocabulary
    assert vocabulary.size == processor.get_piece_size()
    assert vocabulary.encode(text_of(100).encode()).tolist() == expected["100"]


def test_text_files(prepare, place):
    prepare("store", *TEXTS, *bind(data__held_out_per_mille=200))
    splits = load_documents(DataConfig("text_files", "texts", held_out_per_mille=200))
    for split, documents in splits.items():
        raw = {documents.names[i]: documents.raw(i) for i in range(len(documents.names))}
        assert texts_of("store", split) == raw


def test_long_documents_in_pieces(prepare, place, model, monkeypatch):
    """Pieces of 100 bytes, one of which leaves no token."""
    read_pieces = folder_source.read_pieces
    monkeypatch.setattr(folder_source, "read_pieces", lambda *a: read_pieces(*a, limit=100))
    (place / "texts" / "spaces.txt").write_bytes(b" " * 500 + b"the end" + b"\n" * 200)
    whole = {path.name: path.read_bytes() for path in (place / "texts").iterdir()}
    prepare("bytes", *TEXTS)
    assert texts_of("bytes", "train") | texts_of("bytes", "held_out") == whole
    prepare("tokens", *TEXTS, *bind(prepare__vocabulary=model))
    found = documents_of("tokens", "train") | documents_of("tokens", "held_out")
    processor = SentencePieceProcessor(model_file=model)
    assert found == {name: processor.encode(text.decode()) for name, text in whole.items()}


def test_invalid_utf8_and_empty_documents(prepare, place, model):
    odd = {"a.txt": b"the \xff\xfe state", "b.txt": "naïve".encode()[:3], "empty.txt": b""}
    write_texts(place / "texts", odd)
    out = prepare("bytes", *TEXTS)
    assert "1 empty documents left out, 0 with invalid UTF-8" in out
    assert texts_of("bytes", "train") | odd == texts_of("bytes", "train") | {"empty.txt": b""}
    out = prepare("tokens", *TEXTS, *bind(prepare__vocabulary=model))
    assert "1 empty documents left out, 2 with invalid UTF-8" in out


def test_tasks_of_ones_own(prepare):
    prepare("pieces", *mine("pieces"))
    assert texts_of("pieces", "train") == {
        "in pieces": f"train {TEXT}".encode(),
        "last of train": b"whole",
    }
    prepare("whole", *mine("whole"))
    assert texts_of("whole", "held_out") == {
        "held_out-0-0": f"validation {TEXT[:5]}".encode(),
        "held_out-0-1": TEXT[5:].encode(),
        "held_out-0-3": b"whole",
    }
    metadata = json.loads(Path("whole/store.json").read_text())
    assert metadata["task"] == "whole" and metadata["splits"]["train"]["empty"] == 1


def test_a_vocabulary_of_ones_own(prepare):
    prepare("store", *mine("letters"))
    train = load_documents(DataConfig("store", stores=("store",)))["train"]
    assert (train.vocabulary.name, train.vocabulary.size) == ("other-300", 300)
    assert train.tokens(0, 0, 99).tolist() == [*f"train {TEXT[:5]}".encode(), 2]


def test_parts_of_a_tfds_split(prepare, pg19):
    """The example of docs/data.md: 80% of 17 books are 14."""
    prepare("store", *mine("books", prepare__tfds_data_dir=pg19))
    found = [texts_of("store", split) for split in ("train", "held_out")]
    assert [len(texts) for texts in found] == [14, 3]
    texts = {text for part in found for text in part.values()}
    assert texts == {text_of(book).encode() for book in BOOKS["train"]}


def test_a_mixture_becomes_stores_with_weights(prepare):
    out = prepare("store", *mine("both"))
    metadata = json.loads(Path("store/store.json").read_text())
    assert metadata["mixture"] == {"pieces": 0.25, "slow_lines": 0.75}
    assert {f"{i}/{j}".encode() for i in range(8) for j in range(6)} == set(
        texts_of("store/slow_lines", "train").values()
    )
    assert "store/pieces held_out: 2 documents" in out
    train = load_documents(DataConfig("store", stores=("store",)))["train"]
    assert train.weights[1] == pytest.approx(3 * train.weights[0])


# What it survives


def test_number_of_shards(prepare, pg19):
    bindings = bind(prepare__tfds_data_dir=pg19, prepare__num_shards=3)
    prepare("store", data("pg19_bytes"), *bindings)
    assert len(list(Path("store").glob("train-*.tokens"))) == 3
    assert sorted(texts_of("store", "train")) == sorted(map(str, BOOKS["train"]))


def test_many_processes_and_clean_output(place, prepare, model):
    """A program of its own: what TensorFlow prints must not reach the user."""
    arguments = [*TEXTS, *bind(prepare__vocabulary=model, prepare__num_processes=2)]
    result = subprocess.run(
        command("--output=stores/two", *arguments),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("12 shards to write, 2 at a time\n")
    assert "\nstores/two train: 11 documents, " in result.stdout
    prepare("stores/one", *arguments)
    assert contents(place / "stores/two") == contents(place / "stores/one")
    assert not any(str(place).encode() in file for file in contents(place).values() if file)


def start(place: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        command("--output=store", *arguments),
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(happens, process: subprocess.Popen):
    deadline = time.monotonic() + 120
    while not happens():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def members(session: int) -> list[int]:
    """The processes that a command and its workers consist of."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for_the_end_of_all(process: subprocess.Popen):
    deadline = time.monotonic() + 10
    while members(process.pid):
        assert time.monotonic() < deadline, "the workers should end with the command"
        time.sleep(0.01)


def test_kill_and_the_same_command_again(place, prepare, run):
    """kill −9 while two processes write; meanwhile a second command is refused."""
    arguments = mine("slow_lines", prepare__num_processes=2)
    partial = place / "store.partial"
    process = start(place, *arguments)
    wait_until(lambda: len(list(partial.glob("train-*.json"))) >= 2, process)
    status, out, err = run("--output=store", *arguments)
    assert (status, out) == (2, "")
    assert err == (
        f"error: another prepare_data is writing to {partial}: wait for its end, or name another "
        "--output\n"
    )
    assert len(members(process.pid)) >= 3
    process.kill()
    process.communicate()
    wait_for_the_end_of_all(process)

    finished = {path: path.stat().st_mtime_ns for path in partial.glob("train-*.tokens")}
    assert not (place / "store").exists() and 2 <= len(finished) < 8
    (partial / "train-00000.tokens.123.tmp").write_bytes(b"what a killed process leaves")
    out = prepare("store", *mine("slow_lines"))
    assert f"{len(finished)} of 9 shards are there already\n" in out
    for path, moment in finished.items():
        assert (place / "store" / path.name).stat().st_mtime_ns == moment
    prepare("undisturbed", *mine("slow_lines"))
    assert contents(place / "store") == contents(place / "undisturbed")
    assert not partial.exists()
    assert "store is there already, and whole\nstore train: 48 documents" in prepare(
        "store", *mine("slow_lines")
    )


@pytest.mark.slow
def test_kills_at_random_moments(place, prepare):
    arguments = mine("slow_lines", prepare__num_processes=2)
    random = np.random.default_rng(0)
    for kills in range(30):  # noqa: B007
        process = start(place, *arguments)
        try:
            process.communicate(timeout=random.uniform(4, 16))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            continue
        assert process.returncode == 0
        break
    assert kills > 1
    prepare("undisturbed", *mine("slow_lines"))
    assert contents(place / "store") == contents(place / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped(place, number):
    """Ctrl-C reaches the workers as well, SIGTERM only the command."""
    process = start(place, *mine("slow_lines", prepare__num_processes=2))
    wait_until(lambda: list(place.glob("store.partial/train-*.json")), process)
    for pid in members(process.pid) if number == signal.SIGINT else [process.pid]:
        os.kill(pid, number)
    out, _ = process.communicate()
    assert process.returncode == 75
    assert out.endswith("stopped: the same command again continues\n") and "Trace" not in out
    wait_for_the_end_of_all(process)


@pytest.mark.slow
def test_a_worker_that_is_killed(place):
    process = start(place, *mine("slow_lines", prepare__num_processes=2))
    wait_until(lambda: list(place.glob("store.partial/train-*.json")), process)
    os.kill(max(members(process.pid)), signal.SIGKILL)
    out, _ = process.communicate()
    assert process.returncode == 2
    assert out.endswith(
        "error: a process that wrote shards has ended with status -9: if memory is short, lower "
        "prepare.num_processes; finished shards are kept\n"
    )


def test_full_disk(place, run, prepare, monkeypatch):
    written = 0

    def write(self, data):
        nonlocal written
        written += 1
        if written > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(self, data)

    real_write = _File.write
    monkeypatch.setattr(_File, "write", write)
    status, _, err = run("--output=store", *ONE_PROCESS, *TEXTS)
    assert status == 2 and err == (
        "error: no space left for store.partial: free some and give the same command again; "
        "finished shards are kept\n"
    ).replace("store.partial", f"{place}/store.partial")
    monkeypatch.undo()
    os.chdir(place)
    assert not (place / "store").exists() and not (place / "store.partial/store.json").exists()
    assert "of 12 shards are there already" in prepare("store", *TEXTS)
    prepare("undisturbed", *TEXTS)
    assert contents(place / "store") == contents(place / "undisturbed")


# What it says


def test_verify(run, place, prepare):
    prepare("both", *mine("both"))
    assert run("--output=both", "--verify") == (0, "both: every file is as it was written\n", "")
    path = place / "both" / "pieces" / "train-00000.tokens"
    tokens = bytearray(path.read_bytes())
    tokens[11] ^= 1
    path.write_bytes(tokens)
    status, out, err = run("--output=both", "--verify")
    assert status == 2
    assert out == "both/pieces/train-00000.tokens holds other bytes than were written\n"
    assert err == (
        "error: both is damaged: restore it from a copy, or remove and prepare it again\n"
    )
    status, _, err = run("--output=texts", "--verify")
    assert status == 2 and err.startswith("error: no token store in texts (no store.json): make")


def test_another_plan(refuse, prepare, place):
    prepare("store", *TEXTS)
    shards, per_mille = bind(prepare__num_shards=5), bind(data__held_out_per_mille=300)
    different = "(tasks.text_files.shards.train: 11 there, 5 now)"
    assert refuse(*TEXTS, *shards) == (
        f"store holds another token store {different}: name another --output, or remove it"
    )
    source = "tasks.text_files.source"
    assert f"{source}.held_out_per_mille: 20 there, 300 now; {source}.files: '" in refuse(
        *TEXTS, *per_mille
    )
    before = contents(place / "store")
    shutil.move("store", "store.partial")
    os.unlink("store.partial/store.json")
    assert refuse(*TEXTS, *shards) == (
        f"{place}/store.partial holds the beginning of another token store {different}: remove it, "
        "or name another --output"
    )
    text = (place / "texts" / "0.txt").read_bytes()
    (place / "texts" / "0.txt").write_bytes(b"changed")
    message = refuse(*TEXTS)
    assert f"({source}.files: '" in message and "…' there, '" in message
    (place / "texts" / "0.txt").write_bytes(text)
    assert prepare("store", *TEXTS).startswith("12 of 12 shards are there already\nstore train: ")
    assert contents(place / "store") == before


def test_output_that_is_something_else(refuse, prepare, place):
    end = " is there already, and no token store: name another --output"
    assert refuse(*TEXTS, output="texts") == f"texts{end}"
    assert refuse(*TEXTS, output="texts/0.txt") == f"texts/0.txt{end}"
    message = refuse(*TEXTS, output="texts/0.txt/store")
    assert message == "cannot write to texts/0.txt/store (Not a directory): name another --output"
    (place / "empty").mkdir()
    prepare("empty", *TEXTS)


def test_mistakes_in_the_command(refuse, run):
    assert refuse(data("embedded")).startswith("no prepare.task: choose from 'pg19_bytes', 'pg19_")
    assert refuse(*bind(prepare__tsak="arxiv")) == (
        "--gin_bindings: prepare has no parameter 'tsak': did you mean prepare.task?"
    )
    assert refuse(*bind(prepare__num_shards=0)) == (
        "--gin_bindings: prepare.num_shards = 0: must be at least 1"
    )
    assert refuse(data("arxiv")).startswith(
        "prepare.vocabulary = 'sentencepiece.model' is no SentencePiece model (NotFoundError: "
    )
    assert refuse(*TEXTS, *bind(data__path="nowhere")).startswith("Task text_files: data.path = ")
    status, _, err = run("--gin_file=gin/data/arxiv.gin")
    assert status == 2 and "required: --output" in err


def test_packages_that_are_not_there(refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqio", None)
    message = refuse(*TEXTS)
    assert message.startswith("prepare_data needs TensorFlow and seqio (import of seqio halted")
    assert message.endswith("): pip install 'block_recurrent[data]'")


def test_tfds_datasets_that_are_not_there(refuse, place):
    message = refuse(data("pg19_bytes"), *bind(prepare__tfds_data_dir="nowhere"))
    assert message == (
        "Task pg19_bytes: the TFDS dataset pg19 is not in nowhere: have TFDS make it (tfds build "
        "pg19 --data_dir=nowhere), or name its folder by prepare.tfds_data_dir"
    )
    message = refuse(*bind(prepare__task="arxiv", prepare__tfds="no_such_thing"))
    assert "the TFDS dataset no_such_thing is not in " in message
    message = refuse(*mine("without_tfds"))
    assert "(tfds build my_books:1.0.0 --data_dir=" in message


def test_tasks_that_give_no_documents(refuse, run, pg19):
    assert refuse(*mine("without_text")) == (
        "Task without_text: its examples have no 'targets_pretokenized', the text behind the "
        "tokens: make these with seqio.preprocessors.tokenize, which keeps it"
    )
    assert refuse(*mine("without_targets")) == (
        "Task without_targets: it has no output feature 'targets', the tokens: name it so"
    )
    message = refuse(*mine("without_tokens"))
    assert message.startswith("Task without_tokens: ValueError: Task dataset has incorrect type")
    assert message.endswith(": mend its source or its preprocessors")
    assert refuse(*mine("without_validation", prepare__tfds_data_dir=pg19)) == (
        "Task without_validation: it has no split 'validation', but 'train', 'test': have its "
        "source make one, for example seqio.TfdsDataSource(…, splits={'train': 'train[:98%]', "
        "'validation': 'train[98%:]'})"
    )
    assert refuse(*mine("without_end_token")) == (
        "Task without_end_token: its PassThroughVocabulary has no end token, which documents need: "
        "give it an eos_id (train a SentencePiece model with --eos_id=1)"
    )
    status, _, err = run("--output=store", *ONE_PROCESS, *mine("few_letters"))
    assert status == 2 and err == (
        "error: few_letters, split 'train': an example has tokens from 32 to 116, but its "
        "vocabulary has 100: give the output feature 'targets' the vocabulary that made them\n"
    )
    shutil.rmtree("store.partial")
    status, _, err = run("--output=store", *ONE_PROCESS, *mine("without_end"))
    assert status == 2 and err == (
        "error: without_end, split 'train': the last example of a shard 'continues', but nothing "
        "follows it\n"
    )


def test_damaged_records(run, pg19, place):
    shutil.copytree(pg19, "damaged")
    (path,) = Path("damaged").glob("pg19/0.1.1/pg19-train.tfrecord-00001-*")
    record = bytearray(path.read_bytes())
    record[100] ^= 1
    path.write_bytes(record)
    arguments = [data("pg19_bytes"), *bind(prepare__tfds_data_dir="damaged")]
    status, _, err = run("--output=store", *ONE_PROCESS, *arguments)
    assert status == 2 and err == (
        "error: pg19_bytes, split 'train': corrupted record at 12 (DataLossError): mend its "
        "source, or what the Task does with it\n"
    )
    assert not (place / "store").exists()


def test_help(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert out.startswith("usage: python -m block_recurrent.prepare_data ") and "--verify" in out


def test_progress_in_lines():
    now, stream = [0.0], io.StringIO()
    with PrepareProgress(stream=stream, clock=lambda: now[0]) as progress:
        for now[0], tokens in [(1, 100), (5, 0), (6, 12_000), (7, 13_000), (12, 18_000)]:  # noqa: B020
            progress.update(tokens // 100, tokens, tokens / 36_000)
    assert stream.getvalue() == (
        " 33%  120 documents  12,000 tokens  2,000 tokens/s  12 s left\n"
        " 50%  180 documents  18,000 tokens  1,500 tokens/s  12 s left\n"
    )


@pytest.mark.slow
def test_memory_does_not_grow_with_a_document(place):
    """Peak of the program: a document of 50 MB and one of 1 GB, as bytes."""
    peaks = []
    for megabytes in (50, 1000):
        folder = place / f"{megabytes}"
        folder.mkdir()
        (folder / "short.txt").write_text("short")
        with open(folder / "long.txt", "wb") as file:
            for _ in range(megabytes):
                file.write(b"0123456789abcde " * 62500)
        arguments = command(f"--output={megabytes}.store", *TEXTS, *ONE_PROCESS)
        measure = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        result = subprocess.run(
            [sys.executable, "-c", measure, *arguments, *bind(data__path=str(folder))],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(result.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 100, f"{peaks} MB"
