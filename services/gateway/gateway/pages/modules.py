"""Pages that generate, download, verify and list modules."""

import asyncio
import re
from typing import Any

from fastapi.responses import Response
from pydantic import ValidationError

from common.contracts.benchmarking import OVER
from common.contracts.generation import GenerateOptions, GenerateRequest, Module
from common.contracts.verification import VerifiedModule
from common.errors import ServiceError
from gateway.generations import GenerationsRequest
from gateway.pages import highlighting, site
from gateway.pages.page import Page
from gateway.pages.visit import Visit
from gateway.pages.visits import Visits

PAGE = "/dashboard/generate"
SHOWN = 20
GENERATION = re.compile(r"gen_[0-9a-f]{24}")
# Advice beyond the refusal's own message, by `details.reason`.
HELP = {
    "gated": "Ask for access on the model's page of the Hub, then store your Hub token on"
    " the account's page; or choose a model that is open.",
    "hub-token": "Store another Hub token on the account's page.",
    "private": "Make the model public, or choose another one.",
    "license": "If your use is allowed by the licence, tick “The licence allows my use” among"
    " the options.",
    "too-large": "If you have such a provider, tick “I have a provider with more memory” among"
    " the options.",
    "pickle-only": "Ask the model's owner for safetensors weights, or look for a conversion"
    " among the model's pull requests on the Hub and give its revision.",
    "custom-code": "Look for a version of the model that transformers itself knows.",
}


class ModulePages:
    def __init__(self, visits: Visits) -> None:
        self.visits = visits
        self.call = visits.operations.call

    @Page("GET", PAGE)
    async def show(self, visit: Visit) -> Response:
        return self._show(visit, form=_form(visit, visit.request.query_params.get("modelUrl", "")))

    @Page("POST", PAGE)
    async def generate(self, visit: Visit) -> Response:
        form = _form(visit)
        try:
            module = await self.call(visit, "generate", _request(visit))
        except (ServiceError, ValidationError) as error:
            return self._show(visit, error, form=form)
        return self._show(visit, form=form, shown=await _describe(module))

    @Page("POST", PAGE + "/download")
    async def download(self, visit: Visit) -> Response:
        try:
            package = await self.call(visit, "download", _request(visit))
        except (ServiceError, ValidationError) as error:
            return self._show(visit, error, form=_form(visit))
        return Response(package.content, 200, package.headers, package.media_type)

    @Page("POST", PAGE + "/verify")
    async def verify(self, visit: Visit) -> Response:
        form = _form(visit)
        try:
            request = _request(visit).model_copy(update={"verify": True})
            module = await self.call(visit, "generate", request)
        except (ServiceError, ValidationError) as error:
            if site.is_fragment(visit.request):
                return self.visits.refuse(visit.request, error)
            return self._show(visit, error, form=form)
        if site.is_fragment(visit.request):
            return self._show_verification(visit, module)
        return self._show(visit, form=form, shown=await _describe(module))

    @Page("GET", PAGE + "/verifications/{id}")
    async def show_verification(self, visit: Visit) -> Response:
        module = await self.call(visit, "get_verification", id=visit.id("id"))
        if site.is_fragment(visit.request):
            return self._show_verification(visit, module)
        return self._show(visit, form=_form(visit, module.model.id), shown=await _describe(module))

    @Page("POST", PAGE + "/verifications/{id}/cancel")
    async def cancel_verification(self, visit: Visit) -> Response:
        module = await self.call(visit, "cancel_verification", id=visit.id("id"))
        return self._show_verification(visit, module)

    @Page("GET", PAGE + "/history")
    async def show_history(self, visit: Visit) -> Response:
        cursor = visit.request.query_params.get("before", "")
        before = cursor if GENERATION.fullmatch(cursor) else None
        request = GenerationsRequest(limit=SHOWN, before=before)
        page = await self.call(visit, "list_generations", request)
        return self.visits.show(
            "history.html",
            visit.request,
            generations=[(entry, _fields(entry.request.options)) for entry in page.generations],
            next=page.next,
            before=before,
        )

    def _show_verification(self, visit: Visit, module: VerifiedModule) -> Response:
        return self.visits.show(
            "verification.html", visit.request, verification=module.verification, over=OVER
        )

    def _show(
        self,
        visit: Visit,
        error: ServiceError | ValidationError | None = None,
        *,
        form: dict[str, Any],
        shown: dict[str, Any] | None = None,
    ) -> Response:
        """Return the page, or only the part below its form if htmx asks for that."""
        fragment = site.is_fragment(visit.request)
        return self.visits.show(
            "generated.html" if fragment else "generate.html",
            visit.request,
            error,
            form=form,
            shown=shown,
            help=HELP,
            over=OVER,
            fragment=fragment,
            # Fields that were marked as wrong are not any more.
            marked=bool(visit.field("marked")),
        )


def _form(visit: Visit, model: str = "") -> dict[str, Any]:
    """Return the submitted fields, to fill the form again; `model` if there are none."""
    names = ("modelUrl", "revision", "batchSize", "memory", "gpu", "optimizationLevel")
    typed: dict[str, Any] = {name: visit.field(name)[:512] for name in names}
    typed["modelUrl"] = typed["modelUrl"] or model[:512]
    return {**typed, "accept": visit.fields.get("accept", [])}


def _request(visit: Visit) -> GenerateRequest:
    """Return the form as a request; empty fields are derived from the model."""
    options: dict[str, Any] = {}
    if batch := visit.field("batchSize").strip():
        options["batchSize"] = int(batch) if batch.isascii() and batch.isdigit() else batch
    if memory := visit.field("memory").strip():
        options["memory"] = memory
    if gpu := visit.field("gpu"):
        options["gpu"] = gpu == "yes"
    if level := visit.field("optimizationLevel"):
        options["optimizationLevel"] = level
    body: dict[str, Any] = {"modelUrl": visit.field("modelUrl").strip(), "options": options}
    if revision := visit.field("revision").strip():
        body["revision"] = revision
    body["accept"] = visit.fields.get("accept", [])
    return GenerateRequest.model_validate(body)


def _fields(options: GenerateOptions) -> dict[str, Any]:
    """Return the chosen options as the form's fields."""
    chosen = options.model_dump(exclude_none=True)
    if options.gpu is not None:
        chosen["gpu"] = "yes" if options.gpu else "no"
    return chosen


async def _describe(module: Module) -> dict[str, Any]:
    """Return the module's values for the template; highlight its files off the event loop."""
    files = await asyncio.to_thread(highlighting.highlight, module.files)
    return {
        "module": module,
        "files": files,
        "resources": highlighting.resources(module.files),
        "verdict": {check.name: check for check in module.validation.checks},
        "verification": getattr(module, "verification", None),
    }
