"""The origins whose pages may open a socket, as `ALLOWED_ORIGINS` lists them."""

import pytest

from realtime.origins import Origins
from realtime.settings import RealtimeSettings

HEADERS = {"HTTP_HOST": "lilypad.example"}


@pytest.mark.parametrize(
    ("setting", "origin", "allowed"),
    [
        ("", "https://app.example.com", False),
        ("https://app.example.com", "https://app.example.com", True),
        ("https://a.example, https://App.example.com/", "https://app.example.com", True),
        ("https://app.example.com", "https://app.example.com.evil.example", False),
        ("https://app.example.com", "http://app.example.com", False),
        ("https://app.example.com", "https://lilypad.example", True),
        ("https://app.example.com", "null", False),
        ("https://app.example.com:443", "https://app.example.com", True),
        ("https://bücher.example", "https://xn--bcher-kva.example", True),
        ("http://[::1]:8080", "http://[::1]:8080", True),
    ],
)
def test_only_a_listed_origin_or_the_sockets_own_may_connect(monkeypatch, setting, origin, allowed):
    monkeypatch.setenv("ALLOWED_ORIGINS", setting)
    settings = RealtimeSettings.from_environment()
    origins = Origins("http://127.0.0.1:8080", settings.allowed_origins)
    assert origins.allow(origin, HEADERS) == allowed


@pytest.mark.parametrize(
    "wrong",
    [
        "*",
        "app.example.com",
        "https://app.example.com/path",
        "https://app example.com",
        "https://*.example.com",
        "https://app.example.com:99999",
        "https://user@app.example.com",
        "https://app.example.com?",
        "https://a.example;b.example",
        "https://a.example\\evil",
        "https://[a",
    ],
)
def test_a_malformed_origin_stops_the_service_with_a_sentence(monkeypatch, capsys, wrong):
    monkeypatch.setenv("ALLOWED_ORIGINS", wrong)
    with pytest.raises(SystemExit):
        RealtimeSettings.from_environment()
    assert "https://app.example.com, without a path or *" in capsys.readouterr().err
