"""A server on this machine, with a tiny model, inside the process of the test."""

import contextlib
import threading
from pathlib import Path

from block_recurrent import Generator
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.serving.limits import Limits
from block_recurrent.serving.server import Server, listen
from block_recurrent.serving.service import Service
from block_recurrent.serving.session_files import SessionFiles

NAME = "tiny"


class Running:
    """A server that answers.

    Attributes:
      service: what it serves.
      address: such as http://127.0.0.1:8000.
      stop: tells it to stop, as SIGTERM does, or another signal that is given.
      server: the server itself.
    """

    def __init__(self, service: Service, address: str, server: Server):
        self.service, self.address, self.stop = service, address, server.stop
        self.server = server


@contextlib.contextmanager
def running(generator: Generator, folder: Path, *, token: str | None = None, **limits):
    """A server inside the context. It is stopped as by SIGTERM."""
    with SessionFiles(folder, generator).opened() as files, listen("127.0.0.1", 0) as listener:
        service = Service(NAME, generator, ByteVocabulary(), files, Limits(**limits))
        server = Server(service, listener, token)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            port = listener.getsockname()[1]
            yield Running(service, f"http://127.0.0.1:{port}", server)
        finally:
            server.stop()
            thread.join()
