"""A local bucket: the part of Google Cloud Storage's JSON API that gcsfs and Orbax use."""

import contextlib
import email
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "bucket"
ERRORS = {"forbidden": 403, "anonymous": 401}  # buckets that answer so; others are not there


class Server(ThreadingHTTPServer):
    """The objects, name → (generation, content), and in `writes` the names of all writes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.writes: list[str] = []
        self.parts: dict[str, bytes] = {}
        self.lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that direct gcsfs, Google's client and TensorStore here."""
        url = f"http://127.0.0.1:{self.server_port}"
        urls = dict.fromkeys(("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"), url)
        return urls | {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}  # which knows no other host

    def handle_error(self, *request):
        """Ignores closed connections: gcsfs sends two requests at once, and waits for one."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*request)

    def describe(self, name: str) -> dict:
        """The API's description of an object."""
        generation, content = self.objects[name]
        times = dict.fromkeys(("timeCreated", "updated"), "2024-01-01T00:00:00.000Z")
        described = {"kind": "storage#object", "bucket": BUCKET, "name": name, **times}
        return described | {"size": str(len(content)), "generation": str(generation)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name, query = self.asked()
        if name is None:
            return self.answer({"name": BUCKET, "kind": "storage#bucket"})
        if name == "":
            return self.answer(self.listing(query))
        if name not in self.server.objects:
            return self.fail(404)
        if query.get("alt") != "media":
            return self.answer(self.server.describe(name))
        generation, content = self.server.objects[name]
        if query.get("ifGenerationNotMatch") == str(generation):
            return self.answer(b"", 304)
        headers = {"x-goog-generation": str(generation)}
        if "Range" not in self.headers:
            return self.answer(content, 200, headers)
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else None]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        self.answer(part, 206, headers) if part else self.fail(416)

    def do_POST(self):
        _, query = self.asked()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = query["uploadType"]
        if kind == "multipart":  # the name in a part of JSON, then the content
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            about, body = email.message_from_bytes(head + content).get_payload()
            query["name"] = json.loads(about.get_payload())["name"]
            content = body.get_payload(decode=True)
        elif kind == "resumable" and "Content-Range" not in self.headers:
            self.server.parts[query["name"]] = b""
            place = f"http://{self.headers['Host']}{self.path}"
            return self.answer({}, 200, {"Location": place})
        elif kind == "resumable":
            content = self.server.parts[query["name"]] + content
            self.server.parts[query["name"]] = content
            if self.headers["Content-Range"].endswith("/*"):  # more will come
                return self.answer(b"", 308, {"Range": f"bytes=0-{len(content) - 1}"})
        self.write(query["name"], query.get("ifGenerationMatch"), content)

    def do_DELETE(self):
        name, _ = self.asked()
        self.fail(404) if self.server.objects.pop(name, None) is None else self.answer(b"", 204)

    def asked(self) -> tuple[str | None, dict[str, str]]:
        """The object's name ("": all objects, None: the bucket itself), and the query."""
        url = urlsplit(self.path)
        place = url.path.partition("/b/")[2].split("/", 2)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        return unquote(place[2]) if place[2:] else "" if place[1:] else None, query

    def write(self, name: str, generation: str | None, content: bytes):
        """Replaces the object, if it still has this generation (0: it does not exist)."""
        with self.server.lock:
            there, _ = self.server.objects.get(name, (0, b""))
            if generation not in (None, str(there)):
                return self.fail(412)
            self.server.writes.append(name)
            self.server.objects[name] = len(self.server.writes), content
        self.answer(self.server.describe(name))

    def listing(self, query: dict[str, str]) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        first, end = query.get("startOffset", ""), query.get("endOffset")
        items, prefixes = [], set()
        for name in sorted(self.server.objects.copy()):
            if not name.startswith(prefix) or name < first or (end and name >= end):
                continue
            below, deeper, _ = name[len(prefix) :].partition(delimiter or "\n")
            if deeper:
                prefixes.add(prefix + below + delimiter)
            else:
                items.append(self.server.describe(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def fail(self, status: int):
        self.answer({"error": {"code": status, "message": "no"}}, status)

    def answer(self, content: dict | bytes, status: int = 200, headers: dict | None = None):
        content = json.dumps(content).encode() if isinstance(content, dict) else content
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def parse_request(self) -> bool:
        """Answers all requests to other buckets with an error."""
        if not super().parse_request():
            return False
        bucket = self.path.partition("/b/")[2].split("/")[0].split("?")[0]
        if bucket == BUCKET:
            return True
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.fail(ERRORS.get(bucket, 404))
        return False

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve_bucket() -> Iterator[Server]:
    """Serves an empty bucket inside the context."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
