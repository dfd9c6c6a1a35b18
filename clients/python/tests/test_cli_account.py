"""The command line's stored key, and commands that need the account's password."""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import keyring.backend
import keyring.errors
import pytest
from commands import KEY, data_of, error_of
from scripted import Service

from lilypad_client.cli import credentials
from lilypad_client.cli.__main__ import run

pytestmark = pytest.mark.usefixtures("home")
TOKEN = {
    "user": "you",
    "role": "read",
    "storedAt": "2026-01-31T12:00:00Z",
    "checkedAt": "2026-01-31T12:00:00Z",
}


class Ring(keyring.backend.KeyringBackend):
    """A keyring that a test can read and lock."""

    priority = 1
    kept: ClassVar[dict[tuple[str, str], str]] = {}
    locked: ClassVar[bool] = False

    def get_password(self, service: str, username: str) -> str | None:
        self._check()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.kept.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError

    def _check(self) -> None:
        if self.locked:
            raise keyring.errors.KeyringLocked("locked")


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> type[Ring]:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setattr("keyring.core._keyring_backend", Ring())
    monkeypatch.setattr(Ring, "kept", {})
    return Ring


def _type(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def _log_in(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LILYPAD_API_KEY")
    _type(monkeypatch, KEY)
    service.answer({"runs": [], "next": None})
    assert run(["login", "--key-stdin"]) == 0


def test_a_key_is_stored_in_the_systems_keyring_and_in_no_file(
    service: Service,
    ring: type[Ring],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _log_in(service, monkeypatch)
    assert "keyring" in data_of(capsys, "login")["kept"]
    assert ring.kept == {("lilypad", service.url): KEY}
    assert KEY not in credentials.path().read_text()
    service.answer({"status": "success"})
    assert run(["record", "a/b", "latency=8.5"]) == 0
    assert service.requests[-1][1]["Authorization"] == f"Bearer {KEY}"
    capsys.readouterr()
    monkeypatch.setattr(ring, "locked", True)
    assert run(["record", "a/b", "latency=8.5"]) == 1
    assert "keyring" in error_of(capsys)["message"]


def test_a_key_is_stored_in_a_file_if_the_keyring_is_locked(
    service: Service, ring: type[Ring], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "locked", True)
    _log_in(service, monkeypatch)
    assert json.loads(credentials.path().read_text()) == {"url": service.url, "key": KEY}


@pytest.mark.parametrize("where", ["keyring", "file"])
def test_a_logout_deletes_the_key(
    service: Service,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    kept = request.getfixturevalue("ring").kept if where == "keyring" else {}
    _log_in(service, monkeypatch)
    capsys.readouterr()
    assert run(["logout"]) == 0
    assert data_of(capsys, "logout") == {"url": service.url}
    assert (kept, credentials.path().exists()) == ({}, False)
    assert run(["monitor", "a/b"]) == 1
    assert "lilypad login" in error_of(capsys)["next"]
    assert run(["logout"]) == 0


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"url": 1}', '{"url": "http://x", "key": 1}', "x"]
)
def test_a_damaged_credentials_file_is_named_and_a_logout_deletes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    monkeypatch.delenv("LILYPAD_API_KEY")
    credentials.path().parent.mkdir(parents=True)
    credentials.path().write_text(content)
    assert run(["runs"]) == 1
    error = error_of(capsys)
    assert str(credentials.path()) in error["message"]
    assert "lilypad logout" in error["next"]
    assert run(["logout"]) == 0
    assert not credentials.path().exists()


def test_concurrent_logins_each_store_a_complete_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LILYPAD_API_KEY", "LILYPAD_BASE_URL"):
        monkeypatch.delenv(name)

    def log_in(name: str) -> None:
        for _ in range(50):
            credentials.save("http://x", name)
            assert credentials.load()[0] == "http://x"

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(log_in, "abc"))
    assert [file.name for file in credentials.path().parent.iterdir()] == ["credentials.json"]


def test_no_key_is_created_if_it_cannot_be_stored(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config").write_text("a file where the folder would be")
    _type(monkeypatch, "secret")
    assert run(["login", "--email", "a@b.c", "--password-stdin"]) == 1
    assert service.requests == []


def test_an_empty_line_is_not_stored_as_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    # The environment's key must not be stored in its place.
    _type(monkeypatch, "")
    assert run(["login", "--key-stdin"]) == 1
    assert not credentials.path().exists()


def test_a_hub_token_is_read_from_standard_input_stored_checked_and_deleted(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = ["--email", "a@b.c", "--password-stdin"]
    _type(monkeypatch, "secret", "hf_token")
    service.answer(TOKEN)
    assert run(["hub-token", "store", "--token-stdin", *owner]) == 0
    assert data_of(capsys, "hub-token.store")["user"] == "you"
    assert json.loads(service.requests[0][2]) == {"token": "hf_token"}
    monkeypatch.setenv("LILYPAD_PASSWORD", "secret")
    service.answer(TOKEN)
    assert run(["hub-token", "check", "--email", "a@b.c"]) == 0
    assert data_of(capsys, "hub-token.check")["role"] == "read"
    service.answers.append({"status": 204, "content": b""})
    assert run(["hub-token", "delete", "--email", "a@b.c"]) == 0
    assert data_of(capsys, "hub-token.delete")
    assert run(["hub-token", "store", "--email", "a@b.c"]) == 1
    assert "HF_TOKEN" in error_of(capsys)["next"]


def test_a_second_factor_is_enabled_and_disabled_with_codes(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LILYPAD_EMAIL", "a@b.c")
    monkeypatch.setenv("LILYPAD_PASSWORD", "secret")
    service.answer({"secret": "JBSWY3DP", "uri": "otpauth://totp/x"})
    assert run(["second-factor", "start"]) == 0
    assert data_of(capsys, "second-factor.start")["secret"] == "JBSWY3DP"
    service.answer({"recoveryCodes": ["one", "two"]})
    assert run(["second-factor", "confirm", "123456"]) == 0
    assert data_of(capsys, "second-factor.confirm")["recoveryCodes"] == ["one", "two"]
    service.refuse(401, 2001, reason="totp")
    assert run(["second-factor", "stop"]) == 1
    assert "LILYPAD_CODE" in error_of(capsys)["next"]
    monkeypatch.setenv("LILYPAD_CODE", "654321")
    service.answers.append({"status": 204, "content": b""})
    assert run(["second-factor", "stop"]) == 0
    assert data_of(capsys, "second-factor.stop")
    sent = [headers.get("X-Lilypad-Code") for _, headers, _ in service.requests]
    assert sent == [None, None, None, "654321"]


def test_demo_runs_from_any_folder_of_a_checkout(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo"]) == 1
    assert "clone" in error_of(capfd)["next"]
    checkout, below = home / "checkout", home / "checkout" / "docs"
    (checkout / "deploy" / "local").mkdir(parents=True)
    below.mkdir()
    (checkout / "deploy" / "local" / "demo.py").touch()
    for lines, code in (("@echo shown", 0), ("@exit 7", 2)):
        (checkout / "Makefile").write_text(f"demo:\n\t{lines}\n")
        monkeypatch.chdir(below)
        assert run(["demo"]) == code
    assert "shown" in capfd.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["keys", "list"], ["--json", "hub-token", "delete"], ["second-factor", "start"]]
)
@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_command_that_needs_the_password_says_how_to_give_it(
    service: Service,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    password: str | None,
) -> None:
    """An API key would not help, so the advice must name the password."""
    monkeypatch.setenv("LILYPAD_BASE_URL", service.url)
    if password:
        service.refuse(401, 2001)
        monkeypatch.setenv("LILYPAD_EMAIL", "a@example.com")
        monkeypatch.setenv("LILYPAD_PASSWORD", password)
    assert run(arguments) == 1
    assert error_of(capsys)["next"].startswith("set LILYPAD_EMAIL and LILYPAD_PASSWORD")
