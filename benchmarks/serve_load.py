"""The server under load: throughput, time to the first token, memory, many sessions.

    python benchmarks/serve_load.py
    python benchmarks/serve_load.py --clients=8 --idle=0 --saved=0 --requests=0

Throughput is compared with `Generator` alone in a batch of as many rows as there are clients. Both
take turns. `cpu ratio` compares processor time, without that of the clients, which run in the
process of this program.
"""

import argparse
import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from report import report

from block_recurrent import Generator, load_model, model_vocabulary
from block_recurrent.freed_memory import keep_freed_memory
from block_recurrent.interop.model_file import PRETRAINED

PROMPT = "def main(arguments):\n    "


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(PRETRAINED), help="a model file")
    parser.add_argument("--clients", default="1,8,64", help="comma-separated")
    parser.add_argument("--num_tokens", type=int, default=256, help="of each request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=int, default=1000, help="sessions in the device's memory")
    parser.add_argument("--saved", type=int, default=10_000, help="sessions on disk")
    parser.add_argument("--requests", type=int, default=2000, help="for the memory over time")
    parser.add_argument("--json", help="where to write the result")
    return parser.parse_args()


class Server:
    """A server in a process of its own.

    Attributes:
      url: of the API.
      process: the process.
    """

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.url = re.search(r"http://\S+", process.stdout.readline())[0]

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Current resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def started(model: str, **options: int | str) -> Iterator[Server]:
    """A server inside the context, which is stopped as by a user."""
    command = [sys.executable, "-m", "block_recurrent.serve", "--port=0", f"--model={model}"]
    command += [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield Server(process)
    finally:
        process.terminate()
        process.wait()


async def all_at_once(number: int, ask) -> list:
    """The results of `number` clients, each with a connection of its own."""
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as http:
        return await asyncio.gather(*(ask(http, index) for index in range(number)))


def fields(num_tokens: int, seed: int) -> dict:
    return {"prompt": PROMPT, "max_tokens": num_tokens, "seed": seed}


def measure_throughput(args, generator: Generator, prompt, end: int, clients: int) -> dict:
    """Tokens per second of the server and of the generator, in turns; time to the first token."""
    walls, cpus, speeds, firsts = [], [], [], []

    async def ask(http, index):
        url = f"{server.url}/completions"
        answer = await http.post(url, json=fields(args.num_tokens, index))
        return answer.json()["usage"]["completion_tokens"]

    async def first_token(http, index):
        began, url = time.perf_counter(), f"{server.url}/completions"
        body = fields(args.num_tokens, index) | {"stream": True}
        async with http.stream("POST", url, json=body) as stream:
            async for _ in stream.aiter_lines():
                return time.perf_counter() - began

    def alone():
        rows = [prompt] * clients
        return sum(map(len, generator.generate(rows, args.num_tokens, stop_tokens=[end])))

    with started(args.model, rows=clients) as server:
        alone(), asyncio.run(all_at_once(clients, ask))  # compile
        for _ in range(args.rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = alone()
            ours = (time.perf_counter() - wall) / tokens, (time.process_time() - cpu) / tokens
            wall, cpu = time.perf_counter(), server.cpu_seconds()
            tokens = sum(asyncio.run(all_at_once(clients, ask)))
            theirs = (time.perf_counter() - wall) / tokens, (server.cpu_seconds() - cpu) / tokens
            walls.append(ours[0] / theirs[0])
            cpus.append(ours[1] / theirs[1])
            speeds.append(1 / theirs[0])
            firsts += asyncio.run(all_at_once(clients, first_token))
    return {
        "what": f"{clients} clients",
        "tokens/s": float(np.median(speeds)),
        "ratio": float(np.median(walls)),
        "cpu ratio": float(np.median(cpus)),
        "spread": f"{min(cpus):.2f}–{max(cpus):.2f}",
        "first token, median": float(np.median(firsts)),
        "first token, 95%": float(np.quantile(firsts, 0.95)),
    }


def measure_sessions(args, kind: str, count: int) -> dict:
    """Memory of the server with many sessions, and the time until the first one goes on."""
    keep = count if kind == "idle" else 1
    with (
        tempfile.TemporaryDirectory() as folder,
        started(args.model, sessions=folder, device_sessions=keep, cache_bytes=0) as server,
        httpx.Client(base_url=server.url, timeout=None) as http,
    ):

        def create(number):  # a state of its own: all begin differently
            answer = http.post("/sessions", json={"prompt": f"# {number}\n" + 3 * PROMPT})
            return answer.raise_for_status().json()

        first, before = create(0), server.resident_mib()
        began, cpu = time.perf_counter(), server.cpu_seconds()
        for number in range(1, count):
            create(number)
        took, cpu = time.perf_counter() - began, server.cpu_seconds() - cpu
        grown = server.resident_mib() - before
        body = {"max_tokens": 1}
        began = time.perf_counter()
        http.post(f"/sessions/{first['id']}/completions", json=body).raise_for_status()
        seconds = time.perf_counter() - began
        on_disk = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        return {
            "what": f"{count:,} {kind} sessions",
            "KiB per session": first["bytes"] / 1024,
            "created per second": (count - 1) / took,
            "cpu ms for each": 1000 * cpu / (count - 1),
            "memory, MiB": grown,
            "disk, MiB": on_disk / 2**20,
            "seconds to go on": seconds,
        }


def measure_memory(args) -> dict:
    """Memory of the server after a tenth of the requests, and after all."""

    async def ask(http, index):
        words = " ".join(map(str, range(index % 300)))  # prompts of many lengths
        body = fields(1 + index % 20, index) | {"prompt": PROMPT + words}
        (await http.post(f"{server.url}/completions", json=body)).raise_for_status()

    sizes = []
    with started(args.model, cache_bytes=1 << 24) as server:
        for _ in range(10):
            for _ in range(max(1, args.requests // 80)):
                asyncio.run(all_at_once(8, ask))
            sizes.append(server.resident_mib())
    return {
        "what": f"{args.requests:,} requests",
        "MiB after a tenth": sizes[0],
        "MiB after half": sizes[4],
        "MiB at the end": sizes[-1],
    }


def main() -> None:
    args = parse()
    keep_freed_memory()  # as the commands do
    model, about = load_model(args.model)
    vocabulary = model_vocabulary(args.model, about)
    generator, prompt = Generator(model), vocabulary.encode(PROMPT.encode())
    tables = [
        [
            measure_throughput(args, generator, prompt, vocabulary.end_id, int(clients))
            for clients in args.clients.split(",")
            if clients
        ],
        [
            measure_sessions(args, kind, count)
            for kind, count in (("idle", args.idle), ("saved", args.saved))
            if count
        ],
        [measure_memory(args)] if args.requests else [],
    ]
    for number, rows in enumerate(table for table in tables if table):
        path = args.json and str(Path(args.json).with_suffix(f".{number}.json"))
        report("serve_load", rows, path, arguments=vars(args))


if __name__ == "__main__":
    main()
