"""Modules that run a model: generation, download, verification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lilypad_client import operations
from lilypad_client.benchmarks import raise_failure
from lilypad_client.errors import ArchiveError, GenerationError
from lilypad_client.jobs import GRACE_S, Job
from lilypad_client.operation import camel
from lilypad_client.resource import (
    Flow,
    Items,
    Mode,
    Resource,
    operation,
    starting,
    stream,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from lilypad_client import types
    from lilypad_client.params import GenerateRequestFields
    from lilypad_client.retrying import Reply


class Module(dict[str, str]):
    """A module's files by name, with its validation, model and verification.

    `validation` has `status`, `errors` and `checks`; `model` describes the model: id, commit,
    task, license, parameters, memory; `verification` is the run's outcome, None without
    `verify`.
    """

    def __init__(self, answer: types.VerifiedModule) -> None:
        super().__init__(answer.files)
        self.validation = answer.validation
        self.model = answer.model
        self.verification = answer.verification
        self.answer = answer

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as the API sent it."""
        return self.answer.to_dict()

    def write_to(self, folder: str | Path) -> Path:
        """Write the files into a folder, which is created if it is missing."""
        folder = Path(folder)
        for name in self:
            if Path(name).name != name:
                raise ArchiveError(f"{name!r} would be written outside the folder")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.items():
            (folder / name).write_text(text, encoding="utf-8")
        return folder


class Modules(Resource[Mode]):
    """Generated modules and their verification runs."""

    @starting
    def start_verification(
        self, model_url: str, **fields: Unpack[GenerateRequestFields]
    ) -> Flow[Job[Any, Module]]:
        """Generate a module, start a verification run, and return the run's handle.

        The module's files are there at once: `job.latest`.
        """
        return start_verification(self, model_url, fields)

    @operation
    def get_verification(self, id: str) -> Flow[Module]:
        """Return a module that was generated with `verify`."""
        return VerificationWork(self._connection).get(id, 0)

    @operation
    def cancel_verification(self, id: str) -> Flow[Module]:
        """Cancel a module's verification run; its files remain."""
        return VerificationWork(self._connection).cancel(id)

    @stream
    def list(self, page_size: int = 100) -> Items[types.Generation]:
        """Yield generated modules, newest first, without their files.

        `again` regenerates a listed module.
        """
        return self._iterate(operations.LIST_GENERATIONS, "generations", limit=page_size)

    @operation
    def again(self, generation: types.Generation) -> Flow[Module]:
        """Regenerate a listed module from the same commit with the same options."""
        body = generation.request.to_dict()
        return _as_module(self._call(operations.GENERATE, body=body))


class VerificationWork(Resource[Any]):
    """Verification operations behind a job handle."""

    def get(self, id: str, hold_s: int) -> Flow[Module]:
        called = self._call(
            operations.GET_VERIFICATION,
            id=id,
            headers={"Prefer": f"wait={hold_s}"} if hold_s else None,
            timeout_s=hold_s + GRACE_S if hold_s else None,
        )
        return _as_module(called)

    def cancel(self, id: str) -> Flow[Module]:
        return _as_module(self._call(operations.CANCEL_VERIFICATION, id=id))

    def state(self, latest: Module) -> str:
        assert latest.verification is not None, "a verification's module says what came of it"
        return latest.verification.state

    def check(self, latest: Module) -> None:
        assert latest.verification is not None
        if latest.verification.error is not None:
            raise_failure(latest.verification.error, latest.verification.id)
        if latest.verification.state == "canceled":
            raise GenerationError(
                "the verification was canceled",
                status_code=422,
                code=1002,
                details={"reason": "canceled", "id": latest.verification.id},
            )


def generate(resource: Resource[Any], model_url: str, fields: Mapping[str, Any]) -> Flow[Module]:
    if not fields.get("verify"):
        body = {"modelUrl": model_url, **camel(fields)}
        return _as_module(resource._call(operations.GENERATE, body=body))  # noqa: SLF001
    starting_it = start_verification(resource, model_url, fields)

    def flow() -> Flow[Module]:
        job = yield from starting_it
        return (yield from job._wait_until_finished(None))  # noqa: SLF001  (the flow of `wait`)

    return flow()


def start_verification(
    resource: Resource[Any], model_url: str, fields: Mapping[str, Any]
) -> Flow[Job[Any, Module]]:
    connection = resource._connection  # noqa: SLF001  (a resource's own module)
    body = {"modelUrl": model_url, **camel(fields), "verify": True}
    headers = {"Prefer": "respond-async"}
    started = resource._call(operations.GENERATE, body=body, headers=headers)  # noqa: SLF001

    def flow() -> Flow[Job[Any, Module]]:
        latest = yield from _as_module(started)
        assert latest.verification is not None, "a verification's module says what came of it"
        return Job(connection, VerificationWork(connection), latest.verification.id, latest)

    return flow()


def download(
    resource: Resource[Any], model_url: str, to: Path, *, extract: bool, fields: Mapping[str, Any]
) -> Flow[Path]:
    connection = resource._connection  # noqa: SLF001
    body = {"modelUrl": model_url, **camel(fields)}
    request = connection.request(operations.DOWNLOAD, body=body)
    if not extract and to.exists() and not to.is_file():
        raise ValueError(f"{to} is not a file that a download may replace")
    # A link stays a link.
    target = to.resolve() if to.is_symlink() else to
    import secrets  # noqa: PLC0415  (slow to import)

    from lilypad_client import archive  # noqa: PLC0415  (few callers need it)

    def flow() -> Flow[Path]:
        target.parent.mkdir(parents=True, exist_ok=True)
        path = target.with_name(f".{target.name}-{secrets.token_hex(4)}.part")
        # With the caller's umask, unlike the files of `tempfile`.
        with path.open("x+b") as part:
            try:
                reply: Reply = yield from connection.send(request, part)
                archive.check_digest(part, reply.headers.get("etag", ""))
                part.close()
                if extract:
                    return archive.extract(path, target)
                path.replace(target)
                return to
            finally:
                path.unlink(missing_ok=True)

    return flow()


def _as_module(flow: Flow[types.VerifiedModule]) -> Flow[Module]:
    return Module((yield from flow))
