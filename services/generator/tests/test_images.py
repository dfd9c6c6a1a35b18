"""Digests of base images, from a local registry."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from generator import images


class Registry(BaseHTTPRequestHandler):
    """Registry that requires a token, like the public one, and lacks the version `missing`."""

    missing = "none"

    def do_HEAD(self) -> None:
        _, _, *repository, _, tag = self.path.split("/")
        if self.headers.get("authorization") != f"Bearer token of {'/'.join(repository)}":
            self.send_response(401)
            host, port = self.server.server_address[:2]
            scope = "/".join(repository)
            self.send_header(
                "www-authenticate",
                f'Bearer realm="http://{host}:{port}/token",service="here",scope="{scope}"',
            )
        elif tag == self.missing:
            self.send_response(404)
        else:
            self.send_response(200)
            self.send_header("docker-content-digest", "sha256:" + f"{len(tag):02x}" * 32)
        self.end_headers()

    def do_GET(self) -> None:
        scope = httpx2.URL(self.path).params["scope"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"token": f"token of {scope}"}).encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def registry() -> Iterator[str]:
    Registry.missing = "none"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_digest_of_every_base_image_is_written(registry: str, tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    table = images.refresh(path, registry)
    assert set(table) == set(images.ALL)
    assert images.read(path) == table


def test_an_unavailable_image_version_leaves_the_file_of_digests_unchanged(
    registry: str, tmp_path: Path
) -> None:
    path = tmp_path / "images.json"
    before = images.refresh(path, registry)
    Registry.missing = images.GPU.partition(":")[2]
    with pytest.raises(httpx2.HTTPStatusError):
        images.refresh(path, registry)
    assert images.read(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_digests_with_other_content_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    path.write_text('{"python": "latest"}')
    with pytest.raises(ValueError, match="not a table"):
        images.read(path)


def test_the_base_image_has_cuda_for_a_gpu_and_a_compiler_for_compilation() -> None:
    chosen = [images.choose(gpu=gpu, compiled=c) for gpu in (False, True) for c in (False, True)]
    assert chosen == list(images.ALL)
