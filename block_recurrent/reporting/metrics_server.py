"""The newest metrics over HTTP, in the text format of Prometheus, for this machine only."""

import http.server
import math
import threading
from collections.abc import Mapping

from block_recurrent.errors import UserError

ADDRESS = "127.0.0.1"
PREFIX = "block_recurrent"


class MetricsServer:
    """Serves http://127.0.0.1:port/metrics inside the context::

        with MetricsServer(9400) as server:
            server.write(10, "train", {"loss": 2.3})

    Args:
      port: the port to listen on; 0 for any free port.

    Raises:
      UserError: the port is taken.

    Attributes:
      port: the port that the server listens on.
      lines: the newest lines of each split.
    """

    def __init__(self, port: int):
        self.lines: dict[str, list[str]] = {}
        lines = self.lines

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path != "/metrics":
                    self.send_error(404, "only /metrics is served")
                    return
                text = "".join(line + "\n" for split in list(lines.values()) for line in split)
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                """Logs nothing."""

        try:
            self.server = http.server.ThreadingHTTPServer((ADDRESS, port), Handler)
        except OSError as error:
            raise UserError(
                f"watch.port = {port}: cannot listen there ({error.strerror}), choose another"
            ) from error
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "MetricsServer":
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def write(self, step: int, split: str, metrics: Mapping[str, int | float]):
        """Replaces the metrics of the split."""
        numbers = {"step": step} | metrics
        self.lines[split] = [
            f'{PREFIX}_{name}{{split="{split}"}} {prometheus(value)}'
            for name, value in numbers.items()
        ]

    def write_text(self, step: int, prompt: str, text: str):
        """Does nothing, because Prometheus only accepts numbers."""


def prometheus(value: int | float) -> str:
    """Formats a number for Prometheus."""
    if math.isnan(value):
        return "NaN"
    return f"{float(value)!r}" if math.isfinite(value) else f"{value:+}"[:1] + "Inf"
