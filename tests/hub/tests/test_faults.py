import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers

from hub.faults import NONSENSE
from hub.testing import RunningHub

CLASSIFIER = "lilypad/tiny-text-classification"
TIMEOUT_S = 60  # seconds; ends a test that would hang, and is never measured


@pytest.fixture
def url(hub: RunningHub) -> str:
    return f"{hub.url}/api/models/{CLASSIFIER}"


def get(url: str, **more: object) -> httpx2.Response:
    return httpx2.get(url, timeout=TIMEOUT_S, **more)


def test_a_fault_affects_the_configured_number_of_requests_and_counts_calls(
    hub: RunningHub, url: str
):
    hub.faults("status", status=503, times=2)
    assert [get(url).status_code for _ in range(3)] == [503, 503, 200]
    assert [(request.status, request.fault) for request in hub.requests] == [
        (503, "status"),
        (503, "status"),
        (200, None),
    ]


def test_a_fault_ends_with_its_block_and_affects_only_the_configured_requests(
    hub: RunningHub, url: str
):
    with hub.faults("status", status=500, path="^/api/.*classification", method="GET"):
        assert get(url).status_code == 500
        assert httpx2.head(url).status_code == 200
        assert get(f"{hub.url}/api/models/lilypad/tiny-gguf").status_code == 200
    assert get(url).status_code == 200


def test_a_429_states_when_to_retry(hub: RunningHub, api: HfApi, url: str):
    hub.faults("status", status=429, retry_after=7)
    headers = get(url).headers
    assert headers["Retry-After"] == "7"
    limit = parse_ratelimit_headers(headers)
    assert (limit.remaining, limit.reset_in_seconds) == (0, 7)
    with pytest.raises(HfHubHTTPError, match="Retry after 7 seconds"):
        api.model_info(CLASSIFIER)


def test_a_delayed_answer_is_the_hubs_own(hub: RunningHub, url: str):
    hub.faults("late", seconds=0.3)
    started = time.monotonic()
    assert get(url).json()["id"] == CLASSIFIER
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_trickle_prevents_a_read_timeout(hub: RunningHub, url: str, part: str):
    hub.faults("slow", part=part, piece=100, seconds=0.02)
    started = time.monotonic()
    answer = get(url)
    assert answer.json()["id"] == CLASSIFIER
    assert time.monotonic() - started >= 0.02 * (len(answer.content) // 100)


def test_a_trickle_of_headers_starts_with_its_first_byte(hub: RunningHub, url: str):
    hub.faults("slow", seconds=TIMEOUT_S)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(url, timeout=0.5)
    hub.faults("slow", part="body", seconds=TIMEOUT_S)
    with httpx2.stream("GET", url, timeout=TIMEOUT_S) as answer:
        assert answer.status_code == 200


def test_a_hanging_hub_answers_nothing(hub: RunningHub, url: str):
    hub.faults("hang")
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(url, timeout=0.5)
    assert hub.requests[-1].status is None


def test_a_dropped_connection_is_an_error_at_once(hub: RunningHub, url: str):
    hub.faults("drop")
    with pytest.raises(httpx2.ReadError, match="reset by peer"):
        get(url)


def test_a_redirect_fault_names_the_configured_address(hub: RunningHub, url: str):
    hub.faults("redirect", to="http://example.invalid:1{path}")
    answer = get(f"{url}?blobs=true")
    assert answer.status_code == 307
    assert answer.headers["Location"] == (
        f"http://example.invalid:1/api/models/{CLASSIFIER}?blobs=true"
    )


@pytest.mark.parametrize("kind", [*NONSENSE, "types"])
def test_the_nonsense_fault_sends_no_valid_document(hub: RunningHub, api: HfApi, kind: str):
    hub.faults("nonsense", kind=kind)
    # Whatever the client makes of it, it is not the document.
    try:
        sha = api.model_info(CLASSIFIER).sha
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return
    except httpx2.RemoteProtocolError:
        assert kind == "no-http"
        return
    assert not isinstance(sha, str)


@pytest.mark.parametrize("length", [True, False])
def test_a_huge_body_is_sent_with_or_without_content_length(
    hub: RunningHub, url: str, length: bool
):
    hub.faults("huge", size=3_000_000, length=length)
    answer = get(url)
    assert len(answer.content) == 3_000_000
    assert ("Content-Length" in answer.headers) == length


def test_a_client_may_disconnect_during_a_huge_body(hub: RunningHub, url: str):
    hub.faults("huge", times=1)
    with httpx2.stream("GET", url, timeout=TIMEOUT_S) as answer:
        assert answer.headers["Content-Length"] == "200000000"
        next(answer.iter_raw())
    assert get(url).status_code == 200


def test_a_truncated_file_is_an_error_and_the_client_retries(hub: RunningHub, api: HfApi):
    with hub.faults("truncated", path="/resolve/"), pytest.raises(httpx2.RemoteProtocolError):
        get(f"{hub.url}/{CLASSIFIER}/resolve/main/config.json")
    hub.faults("truncated", path="^/cdn/", method="GET", times=1)
    path = Path(api.hf_hub_download(CLASSIFIER, "model.safetensors"))
    bodies = [request for request in hub.requests if request.path.startswith("/cdn/")][-2:]
    assert [(request.fault, request.sent) for request in bodies] == [
        ("truncated", 0),
        (None, path.stat().st_size),
    ]


def test_a_fault_that_does_not_exist_is_refused_by_name(hub: RunningHub):
    with pytest.raises(ValueError, match="no mode 'explode'; there are status, late, slow"):
        hub.faults("explode")
    with pytest.raises(ValueError, match="no kind 'maths'"):
        hub.faults("nonsense", kind="maths")
    with pytest.raises(ValueError, match="loudness"):
        hub.faults("slow", loudness=11)


def test_a_stopped_hub_refuses_connections_and_comes_back_at_its_address():
    with RunningHub(first=[CLASSIFIER]) as hub:
        url = f"{hub.url}/api/models/{CLASSIFIER}"
        assert get(url).status_code == 200
        hub.stop()
        with pytest.raises(httpx2.ConnectError):
            get(url)
        hub.start()
        assert get(url).status_code == 200


def test_a_hub_whose_parent_has_ended_ends_without_a_traceback(session_hub: RunningHub):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hub", "--models-dir", str(session_hub.models_dir)]
    command += ["--first", "lilypad/tiny-text-classification"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_log_names_the_account_and_path_of_each_request(hub: RunningHub, api: HfApi):
    api.whoami(token="hf_member")
    (request,) = hub.requests
    assert (request.method, request.path, request.status) == ("GET", "/api/whoami-v2", 200)
    assert request.authorization == "Bearer hf_member"
    assert "hf_hub/" in request.user_agent
    hub.forget()
    assert hub.requests == []
