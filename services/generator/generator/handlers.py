"""Handlers of the generator: read the model, check it, estimate its resources, write the files."""

from dataclasses import replace

import yaml

from common.bus import Bus
from common.contracts import address
from common.contracts.address import Address
from common.contracts.generation import (
    GENERATE,
    PACKAGE,
    Check,
    GenerateRequest,
    ModelFacts,
    Module,
    Package,
    Validation,
)
from common.contracts.hub import CHECK_HUB_TOKEN, HubIdentity, HubTokenCheck
from common.errors import ModelRefused
from common.service import answers
from generator import (
    access,
    adapters,
    archive,
    gguf_models,
    images,
    manifest,
    measured,
    onnx_models,
    refusals,
    rendering,
    resources,
    validation,
)
from generator.access import Access
from generator.gguf_reading import is_gguf
from generator.hub import Hub
from generator.manifest import Manifest
from generator.measured import Measurements
from generator.onnx_reading import is_onnx
from generator.relatives import Relatives
from generator.settings import Settings
from generator.shared import SharedSnapshots
from generator.snapshots import Recent, Snapshots
from models import config as configs
from models import sizes

# Rendered modules to cache; each is about 40 kB.
MAX_MODULES = 512


class Handlers:
    def __init__(
        self,
        hub: Hub,
        settings: Settings,
        bus: Bus | None = None,
        shared: SharedSnapshots | None = None,
    ) -> None:
        self.snapshots = Snapshots(hub, shared, open_models=settings.shared_models)
        self.relatives = Relatives(hub, self.snapshots.clock)
        self.access = Access(self.snapshots, bus)
        self.measurements = Measurements(bus)
        self.settings = settings
        self.digests = images.read(settings.base_images)
        self._rendered: Recent[str, tuple[dict[str, str], list[Check], str]] = Recent(MAX_MODULES)

    @answers(GENERATE)
    async def generate(self, request: GenerateRequest) -> Module:
        """Generate the six files; return them with the checks and the model's facts.

        Raises:
            InvalidModel: the address is not that of a model.
            ModelNotFound: the Hub has no such model or revision.
            ModelRefused: no module is made for it; `details.reason` says why.
            HubUnavailable: the Hub is unreachable or slow, or its answer is malformed.
            Unavailable: the process that parses large files died or stalled.
        """
        where = address.parse(request.model_url, request.revision)
        where = replace(where, file=request.options.file)
        try:
            return await self._generate(request, where)
        except ModelRefused as error:
            raise await self.relatives.add(where.id, error) from None

    async def _generate(self, request: GenerateRequest, where: Address) -> Module:
        snapshot, age, read_by = await adapters.read(self.access, where)
        form = onnx_models if is_onnx(snapshot) else resources
        check = gguf_models.check if is_gguf(snapshot) else refusals.check
        if is_onnx(snapshot):
            check = onnx_models.check
        task, checks = check(snapshot, request.accept)
        limits = {
            "max_vram_mib": self.settings.max_vram_mib,
            "max_host_memory_mib": self.settings.max_host_memory_mib,
        }
        options, unused = resources.settle_batch(task, request.options)
        if is_gguf(snapshot):
            needs, warnings = gguf_models.estimate(
                snapshot,
                task,
                options,
                max_host_memory_mib=self.settings.max_host_memory_mib,
                accept=request.accept,
            )
        else:
            needs, warnings = form.estimate(
                snapshot,
                task,
                options,
                **limits,
                accept=request.accept,
                cpu_torch_index=self.settings.cpu_torch_index,
            )
        measurement = None
        is_measurable = snapshot.adapter is None and not (is_gguf(snapshot) or is_onnx(snapshot))
        if self.measurements.bus is not None and is_measurable:
            profile = await self.measurements.find(snapshot, needs)
            needs, replacing, measurement = measured.apply(needs, profile, options, **limits)
            replaced = {check.name for check in replacing}
            warnings = [check for check in warnings if check.name not in replaced] + replacing
        module = manifest.describe(snapshot, task, needs, self.digests)
        files, rendered, digest = self._render(module)
        return Module(
            files=files,
            digest=digest,
            validation=_conclude(
                [
                    _freshness(age),
                    *checks,
                    *unused,
                    *warnings,
                    *rendered,
                ]
            ),
            model=ModelFacts(
                id=module.model.id,
                commit=module.model.commit,
                task=module.model.task,
                library=module.model.library,
                license=module.model.license,
                parameters=module.model.parameters,
                weight_bytes=module.model.weight_bytes,
                vram_mib=needs.vram,
                vram_source=needs.vram_source,
                max_tokens=sizes.max_tokens_of(configs.complete(snapshot.config), task),
                measured=needs.measured,
                measurement=measurement,
                read_by=read_by,
            ),
        )

    @answers(PACKAGE)
    async def package(self, request: GenerateRequest) -> Package:
        """Return the same files as a zip. Raises as `generate` does."""
        module = await self.generate(request)
        file = yaml.safe_load(module.files["module.yaml"])["run"].get("file")
        packed = _pack(module.model, module.files, manifest.variant(file))
        return packed.model_copy(update={"model": module.model})

    @answers(CHECK_HUB_TOKEN)
    async def check_hub_token(self, request: HubTokenCheck) -> HubIdentity:
        """Ask the Hub which user a token belongs to. Raises as `access.identify` does."""
        return await access.identify(self.snapshots.hub, request)

    def _render(self, module: Manifest) -> tuple[dict[str, str], list[Check], str]:
        key = module.model_dump_json()
        kept = self._rendered.use(key)
        if kept is None:
            files = rendering.render(module)
            digest = _pack(module.model, files).sha256
            kept = files, validation.check(module, files), digest
            self._rendered.keep(key, kept)
        failed = [check.message for check in kept[1] if check.outcome == "failed"]
        if failed:
            raise ModelRefused(
                "the module's files failed their checks",
                reason="validation",
                checks=failed,
            )
        return kept


def _pack(model: ModelFacts | manifest.Model, files: dict[str, str], variant: str = "") -> Package:
    return archive.pack(manifest.slug(model.id), model.commit, files, variant)


def _freshness(age: float) -> Check:
    if age:
        minutes = round(age / 60)
        return Check(
            name="hub",
            outcome="warning",
            message=f"the Hugging Face Hub is unavailable: the model is that of {minutes} min ago",
        )
    return Check(name="hub", outcome="passed", message="read from the Hub just now")


def _conclude(checks: list[Check]) -> Validation:
    concerns = [check.message for check in checks if check.outcome != "passed"]
    return Validation(status="warnings" if concerns else "passed", errors=concerns, checks=checks)
