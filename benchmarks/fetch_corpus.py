"""Downloads the larger corpus of docs/results.md: the source of Ansible and its collections.

python benchmarks/fetch_corpus.py

It is then in corpora/ansible-9.13.0: 18,295 Python files with 180 MB in total.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CORPORA = Path(__file__).parent.parent / "corpora"
# In the format of pip's requirements; pip checks the SHA-256.
PINNED = (
    "ansible==9.13.0 "
    "--hash=sha256:b389a97d1e85c2b2ad6ace9e94f410111f69cc5aa3845c930c873b34c0ddd6e2\n"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(PINNED)
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:"]
        download += ["--require-hashes", f"--requirement={requirements}", f"--dest={folder}"]
        subprocess.run(download, check=True)
        [archive] = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(CORPORA, filter="data")


if __name__ == "__main__":
    main()
