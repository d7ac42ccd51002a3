"""The newest metrics over HTTP."""

import urllib.error
import urllib.request

import pytest

from block_recurrent.reporting.metrics_server import MetricsServer


def get(port, page="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_metrics_over_http():
    with MetricsServer(0) as server:
        assert get(server.port) == ("text/plain; version=0.0.4; charset=utf-8", "")
        server.write(5, "train", {"loss": 2.5})
        server.write(10, "train", {"loss": float("nan"), "bits_per_byte": float("inf")})
        server.write(10, "held_out", {"loss": 3})
        server.write_text(10, "a prompt", "a text")
        assert get(server.port)[1].splitlines() == [
            'block_recurrent_step{split="train"} 10.0',
            'block_recurrent_loss{split="train"} NaN',
            'block_recurrent_bits_per_byte{split="train"} +Inf',
            'block_recurrent_step{split="held_out"} 10.0',
            'block_recurrent_loss{split="held_out"} 3.0',
        ]
        with pytest.raises(urllib.error.HTTPError, match="only /metrics is served"):
            get(server.port, "/../../etc/passwd")
        address = server.server.server_address[0]
    assert address == "127.0.0.1", "other machines cannot connect"
    with pytest.raises(OSError):
        get(server.port)
