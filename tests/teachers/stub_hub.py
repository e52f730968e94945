"""A hub on this machine for huggingface_hub's real client: models by commit, byte ranges, and what goes wrong."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

LARGE = (".safetensors", ".bin", ".model")
"""Endings of files that are kept in large-file storage, under their sha256."""


def commit_of(number: int) -> str:
    return hashlib.sha1(str(number).encode()).hexdigest()


def digest(name: str, data: bytes) -> str:
    """The checksum that the hub tells: sha256 of a large file, git's sha1 of another."""
    if name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class StubHub:
    """`models`: id -> commit -> file -> bytes; the last commit is main."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.status: dict[str, int] = {}  # id -> what its files, or all of it (404), are answered with
        self.damaged: dict[str, int] = {}  # file -> how many times more it is sent with a wrong byte
        self.cut: dict[str, int] = {}  # file -> after how many bytes every answer breaks off
        self.hold: threading.Event | None = None  # what has broken off stays open until this is set
        self.sent: list[tuple[str, int]] = []  # (file, first byte) of every download
        self.url = ""

    def add(self, model: str, files: dict[str, bytes]) -> str:
        """A new commit, which is main. Returns its hash."""
        commits = self.models.setdefault(model, {})
        commits[commit_of(len(commits))] = files
        return commit_of(len(commits) - 1)

    def find(self, model: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.models.get(model, {})
        commit = list(commits)[-1] if revision == "main" and commits else revision
        return (commit, commits[commit]) if commit in commits else None


@contextmanager
def serve(hub: StubHub) -> Iterator[str]:
    """The address while the hub answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
            if parts[:2] == ["api", "models"] and len(parts) >= 4:
                self._about("/".join(parts[2:4]), parts[4:])
            elif len(parts) > 4 and parts[2] == "resolve":
                self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self._refuse(404, "EntryNotFound")

        def _about(self, model: str, rest: list[str]) -> None:
            if hub.status.get(model) == 404 or model not in hub.models:
                return self._refuse(401, "RepoNotFound")  # as the hub answers those who are not logged in
            found = hub.find(model, rest[1] if len(rest) > 1 else "main")
            if found is None:
                return self._refuse(404, "RevisionNotFound")
            commit, files = found
            if rest[:1] == ["tree"]:
                if len(rest) > 2:
                    return self._refuse(404, "EntryNotFound")
                return self._json([_entry(name, data) for name, data in files.items()])
            siblings = [{"rfilename": name, **_blob(name, data)} for name, data in files.items()]
            return self._json({"id": model, "modelId": model, "sha": commit, "siblings": siblings})

        def _file(self, model: str, revision: str, name: str) -> None:
            found = hub.find(model, revision)
            if found is None:
                return self._refuse(404, "RepoNotFound")
            commit, files = found
            if hub.status.get(model):
                return self._refuse(hub.status[model], "GatedRepo")
            if name not in files:
                return self._refuse(404, "EntryNotFound", commit)
            data, first = files[name], 0
            whole = len(data)
            if (asked := self.headers.get("Range")) and asked.startswith("bytes="):
                first = int(asked[6:].split("-")[0])
            self.send_response(206 if first else 200)
            self.send_header("ETag", f'"{digest(name, data)}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(whole - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{whole - 1}/{whole}")
            self.end_headers()
            if self.command == "HEAD":
                return None
            hub.sent.append((name, first))
            if hub.damaged.get(name, 0) > 0:
                hub.damaged[name] -= 1
                data = data[:-1] + bytes([data[-1] ^ 1])
            stop = hub.cut.get(name, whole)
            self.wfile.write(data[first:stop])
            if stop < whole:
                if hub.hold is not None:
                    hub.hold.wait(60)
                self.close_connection = True
            return None

        def _json(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _refuse(self, status: int, code: str, commit: str = "") -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub.url
    finally:
        server.shutdown()
        server.server_close()


def _blob(name: str, data: bytes) -> dict:
    told: dict = {"size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    if name.endswith(LARGE):
        told["lfs"] = {"sha256": digest(name, data), "size": len(data), "pointerSize": 130}
    return told


def _entry(name: str, data: bytes) -> dict:
    entry: dict = {"type": "file", "path": name, "size": len(data), "oid": _blob(name, data)["blobId"]}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": digest(name, data), "size": len(data), "pointerSize": 130}
    return entry
