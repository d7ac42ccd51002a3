"""The seqio Tasks, read with seqio: from TFDS datasets on disk and from folders."""

import argparse
import functools
import inspect

import numpy as np
import pytest
import tokenizers
from sentencepiece import SentencePieceProcessor

from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.prepare.cuts import cut_for
from block_recurrent.data.prepare.folder_documents import FileGroup, read_pieces
from block_recurrent.errors import UserError
from books import BOOKS, text_of, train_model
from preparing import write_texts

ANY_BYTES = bytes(range(256)) * 40
PAPERS = {
    "b.tex": b"Second paper.\n",
    "a/main.tex": b"First paper",
    "a/parts/1.tex": b", part one",
    "a/parts/2.tex": b" and two.\n",
    "a/figure.png": b"\x89PNG",
    "notes.txt": b"no paper",
    "c/empty.tex": b"",
}


@pytest.fixture(scope="module", autouse=True)
def modules(tensorflow):
    """The modules that import TensorFlow, imported only in the process that runs these tests."""
    global seqio, tf, tfds, FolderSource, find_task, from_seqio, task_sources
    global register_tasks, read_shard
    import seqio
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from block_recurrent.data.prepare.folder_source import FolderSource
    from block_recurrent.data.prepare.seqio_source import read_shard, task_sources
    from block_recurrent.data.prepare.seqio_vocabularies import from_seqio
    from block_recurrent.data.prepare.tasks import find_task, register_tasks


@pytest.fixture
def papers(tmp_path):
    for name, contents in PAPERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(contents)
    return tmp_path


def find(prepare: PrepareConfig, data: DataConfig | None = None):
    register_tasks(prepare, data or DataConfig())
    return find_task(prepare)


def examples_of(task, split="train", shard=0, num_shards=1) -> list[dict]:
    return list(read_shard(task, split, shard, num_shards).as_numpy_iterator())


def documents_of(source, split) -> dict[str, bytes]:
    """The documents, joined from their pieces."""
    documents, parts = {}, b""
    for example in source.get_dataset(split).as_numpy_iterator():
        parts += example["targets"]
        if not example["continues"]:
            documents[example["name"].decode()], parts = parts, b""
    return documents


def message_of(function, *arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


# PG19


def test_books_are_read_by_tfds(pg19):
    """seqio's examples equal those of TFDS on disk, which equal what was written."""
    find(PrepareConfig("pg19_bytes", tfds_data_dir=pg19))
    task = seqio.get_mixture_or_task("pg19_bytes")
    assert set(task.splits) == {"train", "validation", "test"}
    for split, books in BOOKS.items():
        stored = {
            str(book["book_id"]): book["book_text"]
            for book in tfds.load("pg19", split=split, data_dir=pg19).as_numpy_iterator()
        }
        assert stored == {str(book): text_of(book).encode() for book in books}
        examples = examples_of(task, split)
        assert {e["name"].decode(): e["targets_pretokenized"] for e in examples} == stored
        for example in examples:
            ids = np.frombuffer(example["targets_pretokenized"], np.uint8).astype(int) + 3
            assert example["targets"].tolist() == ids.tolist()


def test_tokens_of_books(pg19, model):
    """The tokens equal those of seqio's preprocessor, and those of SentencePiece itself."""
    task = find(PrepareConfig("pg19_tokens", vocabulary=model, tfds_data_dir=pg19))
    processor = SentencePieceProcessor(model_file=model)
    text = {"targets": [text_of(book) for book in BOOKS["train"]]}
    by_seqio = seqio.preprocessors.tokenize(
        tf.data.Dataset.from_tensor_slices(text), task.output_features
    ).as_numpy_iterator()
    expected = {example["targets_pretokenized"]: example["targets"] for example in by_seqio}
    examples = examples_of(task)
    assert len(examples) == len(BOOKS["train"])
    for example in examples:
        text = example["targets_pretokenized"]
        assert example["targets"].dtype == np.int32
        assert example["targets"].tolist() == expected[text].tolist()
        assert example["targets"].tolist() == processor.encode(text.decode())


def test_shards_make_up_a_split(pg19):
    task = find(PrepareConfig("pg19_bytes", tfds_data_dir=pg19))
    for num_shards in (2, 4):
        shards = [examples_of(task, "train", shard, num_shards) for shard in range(num_shards)]
        names = [example["name"] for examples in shards for example in examples]
        assert sorted(names) == sorted(str(book).encode() for book in BOOKS["train"])


# Folders


def test_arxiv(papers):
    source = FolderSource(papers, "arxiv", held_out_per_mille=500)
    documents = documents_of(source, "train") | documents_of(source, "validation")
    assert documents == {
        "a": b"First paper, part one and two.\n",
        "b.tex": b"Second paper.\n",
        "c": b"",
    }


def test_github(papers):
    source = FolderSource(papers, "github", glob="**/*.[tp][en][xg]")
    (papers / "d").mkdir()
    (papers / "d" / "code.tex").write_bytes(b"more")
    documents = documents_of(source, "train") | documents_of(source, "validation")
    assert documents == {
        "a": b"\x89PNGFirst paper, part one and two.\n",
        "c": b"",
        "d": b"more",
    }


def test_text_files_equal_those_of_training_on_a_folder(papers):
    """The documents and their split are the same."""
    for i in range(30):
        (papers / f"{i}.md").write_bytes(b"x" * i)
    data = DataConfig("text_files", str(papers), "**/*.*", 200)
    source = FolderSource(papers, "text_files", "**/*.*", 200)
    expected = load_documents(data)
    for ours, theirs in {"train": "train", "validation": "held_out"}.items():
        documents = documents_of(source, ours)
        full = {name: text for name, text in documents.items() if text}
        d = expected[theirs]
        assert full == {d.names[i]: d.raw(i) for i in range(len(d.names))}
    assert "c/empty.tex" in documents_of(source, "train")


@pytest.mark.parametrize(
    "files, held_out",
    [
        ({"book.txt": b"A line of the book.\n" * 500, "README": b"a note"}, ()),
        ({"train.txt": b"a" * 5000, "valid.txt": b"b", "test.txt": b"c"}, ()),
        ({"a.txt": b"a", "b.txt": b"b"}, "../b"),
    ],
)
def test_splits_equal_those_of_training_on_a_folder(tmp_path, files, held_out):
    write_texts(tmp_path / "texts", files)
    write_texts(tmp_path / "b", {"c.txt": b"c"})
    path, held_out = tmp_path / "texts", held_out and str(tmp_path / "texts" / held_out)
    source = FolderSource(path, held_out=held_out)
    expected = load_documents(DataConfig("text_files", str(path), held_out=held_out))
    names = {"validation": "held_out"}
    assert sorted(expected) == sorted(names.get(split, split) for split in source.splits)
    for split in source.splits:
        documents = expected[names.get(split, split)]
        texts = {documents.names[i]: documents.raw(i) for i in range(len(documents.names))}
        assert documents_of(source, split) == texts


def test_papers_to_hold_out(papers, tmp_path_factory):
    """Whole documents are held out, in the folder or elsewhere."""
    source = FolderSource(papers, "arxiv", held_out=("a/*.tex",))
    assert source.list_shards("validation") == ["a"]
    other = tmp_path_factory.mktemp("new") / "other"
    write_texts(other, {"x/1.tex": b"1", "x/2.tex": b"2", "y.tex": b"3"})
    source = FolderSource(papers, "arxiv", held_out=str(other))
    assert documents_of(source, "validation") == {"../other/x": b"12", "../other/y.tex": b"3"}


def test_names_that_are_not_utf8(tmp_path):
    for name in (b"\xff\xfe.txt", "é.txt".encode()):
        with open(bytes(tmp_path) + b"/" + name, "wb") as file:
            file.write(b"x")
    source = FolderSource(tmp_path)
    names = {e["name"] for s in source.splits for e in source.get_dataset(s).as_numpy_iterator()}
    assert names == {b"\xff\xfe.txt", "é.txt".encode()}


def test_shards_of_a_folder(papers):
    source = FolderSource(papers, glob="**/*.*")
    whole = [example["name"] for example in source.get_dataset("train").as_numpy_iterator()]
    assert len(whole) == len(source.list_shards("train")) == source.num_input_examples("train") == 6
    parts = [
        [e["name"] for e in source.get_dataset("train", shard_info=info).as_numpy_iterator()]
        for info in (seqio.ShardInfo(shard, 4) for shard in range(4))
    ]
    assert parts == [whole[shard::4] for shard in range(4)]
    with pytest.raises(ValueError, match="must keep their order"):
        source.get_dataset("train", shuffle=True)


def test_a_tfds_dataset_instead_of_a_folder(pg19):
    prepare = PrepareConfig("github", tfds="pg19", tfds_feature="book_text", tfds_data_dir=pg19)
    texts = {example["targets_pretokenized"] for example in examples_of(find(prepare))}
    assert texts == {text_of(book).encode() for book in BOOKS["train"]}
    prepare = PrepareConfig("github", tfds="pg19", tfds_feature="text", tfds_data_dir=pg19)
    assert message_of(examples_of, find(prepare)) == (
        "prepare.tfds_feature = 'text' is not text in the TFDS dataset: choose from "
        "'book_link', 'book_text', 'book_title', 'publication_date'"
    )


# Pieces


def pieces_of(folder, text: bytes, cut: str, limit: int) -> list[bytes]:
    (folder / "text").write_bytes(text)
    group = FileGroup("text", ["text"], [len(text)], 0, len(text))
    found = list(read_pieces(group, folder, cut, limit))
    assert b"".join(piece for piece, _ in found) == text
    assert [continues for _, continues in found] == [True] * (len(found) - 1) + [False]
    return [piece for piece, _ in found]


@pytest.mark.parametrize("limit", [1, 3, 64, 10240, 10241])
def test_bytes_are_cut_anywhere(tmp_path, limit):
    pieces = pieces_of(tmp_path, ANY_BYTES, "anywhere", limit)
    assert {len(piece) for piece in pieces[:-1]} <= {limit} and len(pieces[-1]) <= limit
    assert pieces_of(tmp_path, b"", "anywhere", limit) == [b""]
    assert pieces_of(tmp_path, ANY_BYTES, "nowhere", limit) == [ANY_BYTES]


@pytest.mark.parametrize("limit", [64, 300, 1000])
def test_pieces_have_the_tokens_of_the_whole(tmp_path, model, limit):
    text = " ".join(text_of(book) for book in range(30)) + inspect.getsource(argparse) + " \n\n "
    processor = SentencePieceProcessor(model_file=model)
    pieces = pieces_of(tmp_path, text.encode(), "at_spaces", limit * 4)
    assert len(pieces) > 20 and max(map(len, pieces)) <= limit * 4
    tokens = [token for piece in pieces for token in processor.encode(piece.decode())]
    assert tokens == processor.encode(text)


def test_characters_are_never_cut(tmp_path):
    pieces = pieces_of(tmp_path, "aé雪😀".encode() * 50, "at_spaces", 9)
    assert len(pieces) > 50 and [piece.decode() for piece in pieces]
    lines = b"0123456\n" * 10
    assert pieces_of(tmp_path, lines, "at_spaces", 20) == [lines[:16]] * 5
    invalid = b"\x80" * 30
    assert pieces_of(tmp_path, invalid, "at_spaces", 9) == [b"\x80" * 9] * 3 + [b"\x80" * 3]


def test_models_with_tokens_across_words_get_whole_documents(tmp_path, model):
    train = functools.partial(train_model, tmp_path / "other.model")

    def cut(vocabulary):
        return cut_for(from_seqio(vocabulary))

    assert cut(seqio.SentencePieceVocabulary(model)) == "at_spaces"
    assert cut(seqio.SentencePieceVocabulary(model, extra_ids=3)) == "at_spaces"
    assert cut(seqio.ByteVocabulary()) == "anywhere"
    assert cut(seqio.PassThroughVocabulary(5, eos_id=1)) == "nowhere"
    for options in (
        {"add_dummy_prefix": False},
        {"remove_extra_whitespaces": False},
        {"split_by_whitespace": False},
        {"treat_whitespace_as_suffix": True},
    ):
        assert cut(seqio.SentencePieceVocabulary(str(train(**options)))) == "nowhere", options


def test_a_folder_is_cut_to_suit_the_vocabulary(papers, model):
    data = DataConfig(path=str(papers))
    cuts = {
        vocabulary: find(PrepareConfig("arxiv", vocabulary=vocabulary), data).source.folder.cut
        for vocabulary in ("bytes", model)
    }
    assert cuts == {"bytes": "anywhere", model: "at_spaces"}


def test_files_that_change(papers):
    task = find(PrepareConfig("arxiv"), DataConfig(path=str(papers), held_out_per_mille=1))
    assert task.source.folder.documents
    (papers / "a" / "parts" / "2.tex").write_bytes(b"longer than it was before")
    for text in ("2.tex has 25 bytes, but had 10 at the start", "cannot read"):
        with pytest.raises(tf.errors.OpError, match=text):
            [examples_of(task, split) for split in task.splits]
        (papers / "a" / "parts" / "1.tex").unlink(missing_ok=True)


# Mistakes


def test_unknown_tasks(papers, model):
    folder = DataConfig(path=str(papers))
    assert message_of(find, PrepareConfig("pg19_byte")) == (
        "prepare.task = 'pg19_byte' is not a registered seqio Task or Mixture: did you mean "
        "'pg19_bytes'?"
    )
    assert message_of(find, PrepareConfig("zzz")).endswith(
        "'zzz' is not a registered seqio Task or Mixture: register it in prepare.module"
    )
    message = message_of(find, PrepareConfig())
    assert message.startswith(
        "prepare.task is not set: choose from 'pg19_bytes', 'pg19_tokens', 'arxiv'"
    )
    for name in ("arxiv", "github", "text_files"):
        assert message_of(find, PrepareConfig(name)) == (
            f"prepare.task = '{name}' needs a source: set data.path to a folder, or prepare.tfds "
            "to a TFDS dataset"
        )
        assert find(PrepareConfig(name), folder).name == name
    url = "t5-data/vocabs/cc_all.32000/sentencepiece.model"
    assert message_of(find, PrepareConfig("pg19_tokens")) == (
        "prepare.task = 'pg19_tokens' needs a SentencePiece model: set prepare.vocabulary to its "
        f"path; the paper uses T5's, which is at https://storage.googleapis.com/{url} or gs://{url}"
    )
    assert message_of(find, PrepareConfig("pg19_bytes", vocabulary=model)) == (
        f"prepare.task = 'pg19_bytes' has bytes as tokens, but prepare.vocabulary = '{model}': "
        "set that to 'bytes', or set prepare.task = 'pg19_tokens'"
    )


def test_invalid_vocabularies(papers):
    (papers / "new.json").write_text('{"version": "9.0", "model": {"type": "New"}}')
    text, newer = str(papers / "a/main.tex"), str(papers / "new.json")
    for name, why in {
        "nowhere.model": "cannot read the vocabulary nowhere.model (No such file or directory): ",
        "nowhere.json": "cannot read the vocabulary nowhere.json (No such file or directory): ",
        str(papers): f"cannot read the vocabulary {papers} (Is a directory): ",
        text: f"{text} is not a SentencePiece model (",
        newer: f"{newer} is not a tokenizer.json that tokenizers {tokenizers.__version__} can read",
    }.items():
        message = message_of(find, PrepareConfig("arxiv", vocabulary=name))
        assert message.startswith(f"prepare.vocabulary = '{name}': {why}") and "\n" not in message
        assert message.endswith(", a tokenizer.json, or 'bytes'") and "storage.googlea" in message


def test_modules_that_cannot_be_imported(papers, monkeypatch):
    monkeypatch.syspath_prepend(papers)
    (papers / "broken_tasks.py").write_text("import seqio\n\nraise RuntimeError('no data')\n")
    for name, why in {
        "no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
        "broken_tasks": "RuntimeError: no data",
    }.items():
        assert message_of(find, PrepareConfig("mine", module=name)) == (
            f"cannot import prepare.module = '{name}' ({why}): set it to a module, in the current "
            "folder or on PYTHONPATH, that registers seqio Tasks"
        )


def test_folders_without_documents(papers):
    def message(path, grouping="text_files", glob="**/*"):
        return message_of(FolderSource(path, grouping, glob).list_shards, "train")

    assert message(papers / "x") == (
        f"data.path = '{papers}/x' does not exist: set it to a file or folder of text"
    )
    assert message(papers / "a", "github", "*.tex").startswith(
        f"no folder with files in {papers}/a"
    )
    assert message(papers, "arxiv", "**/*.txt") == (
        f"no .tex file in {papers} for data.glob = '**/*.txt': change the pattern ('**/*' matches "
        "every file) or data.path"
    )
    assert message(papers / "c", "arxiv").startswith(f"every file in {papers}/c that matches")


@pytest.fixture
def make_task():
    """Makes a Task of two texts per split, whose targets have the given rank."""
    before = set(seqio.TaskRegistry.names())

    def texts(split, shuffle_files):
        del split, shuffle_files
        return tf.data.Dataset.from_tensor_slices({"targets": ["a b", "c d"]})

    def deepen(dataset):
        return dataset.map(lambda one: one | {"targets": one["targets"][None]})

    def make(name, *, splits=("train", "validation"), vocabulary=None, rank=1, register=True):
        feature = seqio.Feature(vocabulary or seqio.ByteVocabulary(), rank=rank, add_eos=False)
        task = seqio.Task(
            name,
            source=seqio.FunctionDataSource(texts, splits),
            preprocessors=[seqio.preprocessors.tokenize, *([deepen] if rank > 1 else [])],
            output_features={"targets": feature},
        )
        if register:
            seqio.TaskRegistry.add_provider(name, task)
        return task

    yield make
    for name in set(seqio.TaskRegistry.names()) - before:
        seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"splits": ("train", "validation", "held_out")},
            "its split 'held_out' has a store's name for 'validation': rename it",
        ),
        ({"register": False}, "it is not registered: add it with seqio.TaskRegistry.add"),
        ({"rank": 2}, "its 'targets' do not have rank 1: make each a sequence of tokens"),
    ],
)
def test_tasks_that_cannot_make_a_store(fields, message, make_task):
    task = make_task("of_errors", **fields)
    assert message_of(task_sources, task) == f"Task of_errors: {message}"


def test_a_mixture_of_different_vocabularies(make_task):
    make_task("of_bytes")
    make_task("of_others", vocabulary=seqio.ByteVocabulary(extra_ids=5))
    mixture = seqio.Mixture("of_both", [("of_bytes", 1.0), ("of_others", 1.0)])
    assert message_of(task_sources, mixture) == (
        "the Tasks of of_both have different vocabularies: give them the same one"
    )
