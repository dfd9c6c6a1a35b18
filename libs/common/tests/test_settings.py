"""Settings of every service, read from the environment."""

import pytest

from common.settings import ServiceSettings


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LOG_LEVEL", "VERBOSE", "LOG_LEVEL: Input should be 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ("STREAM_REPLICAS", "three", "STREAM_REPLICAS: Input should be a valid integer"),
        (
            "OTEL_TRACES_SAMPLER_ARG",
            "1%",
            "OTEL_TRACES_SAMPLER_ARG: Input should be a valid number",
        ),
    ],
)
def test_a_service_exits_with_a_sentence_about_an_invalid_variable(
    variable: str, value: str, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as refused:
        ServiceSettings.from_environment()
    assert refused.value.code == 2
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("level", ["debug", "WARNING", " error "])
def test_a_log_level_may_be_written_in_small_letters(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_LEVEL", level)
    assert ServiceSettings.from_environment().log_level == level.strip().upper()
