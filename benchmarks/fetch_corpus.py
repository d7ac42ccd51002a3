"""Downloads a larger corpus of docs/results.md.

    python benchmarks/fetch_corpus.py ansible   # corpora/ansible-9.13.0
    python benchmarks/fetch_corpus.py kernel    # corpora/linux-6.1

ansible: the source of Ansible and its collections, 18,295 Python files with 180 MB in total.

kernel: C code of Linux 6.1, from Debian's source package. All .c and .h files of a directory, in
the order of their paths, are one text, as in the paper's GitHub corpus: code whose context lies in
other files. Directories below drivers/net, drivers/media, fs and net with at least 64 kB are used.
Each is cut into documents of at most 128 kB, after a line. An eighth of the directories, by a hash
of their names, is held out. 1,739 documents with 201 MB to train on, 267 with 31 MB held out.
"""

import argparse
import hashlib
import lzma
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CORPORA = Path(__file__).parent.parent / "corpora"
# In the format of pip's requirements; pip checks the SHA-256.
ANSIBLE = (
    "ansible==9.13.0 "
    "--hash=sha256:b389a97d1e85c2b2ad6ace9e94f410111f69cc5aa3845c930c873b34c0ddd6e2\n"
)
KERNEL_URLS = (
    "http://deb.debian.org/debian/pool/main/l/linux/linux-source-6.1_6.1.176-1_all.deb",
    "https://snapshot.debian.org/file/88a9623d7b92776fbdae70dba1510eeca618a7fa",  # after updates
)
KERNEL_SHA256 = "9305d1a151b8e83dcb88aa11361e7b9513f0c252bdf7f5647e4542762d99c094"
SUBTREES = ("drivers/net/", "drivers/media/", "fs/", "net/")
LEAST, MOST = 64 * 1024, 128 * 1024  # bytes of a directory, and of a document
HELD_OUT = 8  # one directory in so many


def fetch_ansible():
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(ANSIBLE)
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:"]
        download += ["--require-hashes", f"--requirement={requirements}", f"--dest={folder}"]
        subprocess.run(download, check=True)
        [archive] = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(CORPORA, filter="data")


def fetch_kernel():
    directories = defaultdict(dict)
    for path, text in read_sources(download(KERNEL_URLS, KERNEL_SHA256)):
        directories[path.rpartition("/")[0]][path] = text
    for directory, files in directories.items():
        text = b"".join(files[path] for path in sorted(files))
        if len(text) >= LEAST:
            digest = hashlib.sha256(directory.encode()).digest()
            split = "train" if digest[0] % HELD_OUT else "held_out"
            folder = CORPORA / "linux-6.1" / split
            folder.mkdir(parents=True, exist_ok=True)
            for number, document in enumerate(cut(text)):
                name = f"{directory.replace('/', '_')}-{number:02}.c"
                (folder / name).write_bytes(document)


def download(urls: tuple[str, ...], sha256: str) -> BinaryIO:
    """The file at the first of these addresses that has it."""
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                content = tempfile.TemporaryFile()
                while chunk := response.read(2**20):
                    content.write(chunk)
        except urllib.error.URLError as error:
            print(f"{url}: {error}", file=sys.stderr)
            continue
        content.seek(0)
        if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
            sys.exit(f"error: {url} is another file than expected")
        content.seek(0)
        return content
    sys.exit("error: the source of the kernel is at none of these addresses")


def read_sources(package: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of the C files in the subtrees, from Debian's package of the source."""
    skip_to(package, "data.tar.xz")
    with tarfile.open(fileobj=lzma.open(package), mode="r|") as outer:
        source = next(one for one in outer if one.name.endswith("/linux-source-6.1.tar.xz"))
        with tarfile.open(fileobj=lzma.open(outer.extractfile(source)), mode="r|") as inner:
            for member in inner:
                path = member.name.partition("/")[2]
                if member.isfile() and path.startswith(SUBTREES) and path.endswith((".c", ".h")):
                    yield path, inner.extractfile(member).read()


def skip_to(archive: BinaryIO, member: str):
    """Reads an ar archive up to the content of a member."""
    archive.seek(8)
    while header := archive.read(60):
        if header[:16].decode().strip() == member:
            return
        size = int(header[48:58])
        archive.seek(size + size % 2, 1)
    sys.exit(f"error: the package has no {member}")


def cut(text: bytes) -> Iterator[bytes]:
    """Pieces of at most `MOST` bytes, each of which ends after a line."""
    while text:
        end = len(text) if len(text) <= MOST else text.rfind(b"\n", 0, MOST) + 1 or MOST
        yield text[:end]
        text = text[end:]


def main():
    corpora = {"ansible": fetch_ansible, "kernel": fetch_kernel}
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("corpus", choices=corpora)
    corpora[parser.parse_args().corpus]()


if __name__ == "__main__":
    main()
