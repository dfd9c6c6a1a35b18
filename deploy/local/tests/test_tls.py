"""TLS of the bus and of the database, with certificates that the tests create."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
from pathlib import Path

import psycopg
import pytest
import trustme

from common import bus
from common.postgres import Database
from local import ports
from local.credentials import Credentials
from local.nats import CONFIGURATION, Nats, server
from local.process import Process, Program, Report
from local.stack import Stack

# A client's first message if it wants TLS: its length, and a number in place of a version.
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


def certify(authority: trustme.CA, folder: Path) -> None:
    """Write a certificate for 127.0.0.1, its key, and the authority's certificate."""
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")


def serial(port: int, context: ssl.SSLContext) -> object:
    """Return the serial number of the bus's certificate; None while the bus does not listen."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            assert connection.recv(4096).startswith(b"INFO ")
            with context.wrap_socket(connection, server_hostname="127.0.0.1") as encrypted:
                certificate = encrypted.getpeercert()
                assert certificate is not None
                return certificate["serialNumber"]
    except ConnectionRefusedError:
        return None


async def test_the_bus_serves_only_tls_and_reloads_a_renewed_certificate(
    tmp_path: Path,
) -> None:
    authority, context = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(context)
    certify(authority, tmp_path)
    for file in ("nats.conf", "tls.conf"):
        shutil.copy(CONFIGURATION.with_name(file), tmp_path)
    (tmp_path / "both.conf").write_text("include ./nats.conf\ninclude ./tls.conf\n")
    (port,) = ports.find(1)
    nats = Nats(tmp_path / "store", port, Credentials(tmp_path / "secrets"))
    files = {"NATS_CERT_FILE": f"{tmp_path}/tls.crt", "NATS_KEY_FILE": f"{tmp_path}/tls.key"}
    program = Program(
        name="nats",
        command=[server(), "--config", str(tmp_path / "both.conf")],
        environment={**nats.environment(), **files},
        ready=lambda: True,
    )
    process = Process(program, tmp_path / "log", Report())
    process.start()
    url = nats.url("gateway").replace("nats://", "tls://")
    try:
        async with bus.connect(url, "gateway", ca_file=tmp_path / "ca.crt") as gateway:
            await gateway.flush()
            first = serial(port, context)
            certify(authority, tmp_path)
            os.kill(process.pid, signal.SIGHUP)
            while serial(port, context) == first:
                await asyncio.sleep(0.05)
            await gateway.flush()
            assert gateway.client.stats["reconnects"] == 0
            with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
                plain.recv(4096)
                plain.sendall(b"CONNECT {}\r\nPING\r\n")
                assert b"PONG" not in plain.recv(4096)
    finally:
        process.stop()


async def test_the_database_is_used_over_tls_if_its_url_requests_it(
    servers: Stack, tmp_path: Path
) -> None:
    """The packaged PostgreSQL lacks TLS, so a proxy in front of it provides TLS, as in a cloud."""
    authority = trustme.CA()
    certify(authority, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    encrypted: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = [writer]
        try:
            first = await reader.readexactly(len(SSL_REQUEST))
            encrypted.append(first == SSL_REQUEST)
            if encrypted[-1]:
                writer.write(b"S")
                await writer.start_tls(context)
                first = b""
            theirs, ours = await asyncio.open_connection("127.0.0.1", servers.postgres.port)
            opened.append(ours)
            ours.write(first)
            await asyncio.gather(carry(reader, ours), carry(theirs, writer))
        except OSError:
            pass  # libpq hangs up without a word
        finally:
            for each in opened:
                each.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        url = servers.postgres.url("metrics").replace(f":{servers.postgres.port}/", f":{port}/")
        trusted = f"{url}?sslmode=verify-full&sslrootcert={tmp_path}/ca.crt"
        database = Database(trusted, "metrics")
        async with database.pool:
            await database.ping()
            async with database.connection() as connection:
                assert connection.pgconn.ssl_in_use
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
        with pytest.raises(psycopg.OperationalError, match="certificate"):
            await psycopg.AsyncConnection.connect(trusted)
    assert encrypted
    assert all(encrypted)


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
