"""From a request to a module: read the model, judge it, work out its needs, write the files."""

from common.bus import Bus
from common.contracts.generation import (
    Check,
    GenerateRequest,
    ModelFacts,
    Module,
    Package,
    Validation,
)
from common.errors import ModelRefused
from generator import (
    address,
    archive,
    images,
    manifest,
    measured,
    refusals,
    rendering,
    resources,
    validation,
)
from generator.hub import Hub
from generator.manifest import Manifest
from generator.measured import Measurements
from generator.settings import Settings
from generator.shared import Shared
from generator.snapshots import Recent, Snapshots

# A module is about 40 kB.
MOST_MODULES = 512


class Handlers:
    def __init__(
        self, hub: Hub, settings: Settings, bus: Bus | None = None, shared: Shared | None = None
    ) -> None:
        self.snapshots = Snapshots(hub, shared)
        self.measurements = Measurements(bus)
        self.settings = settings
        self.digests = images.read(settings.base_images)
        self._rendered: Recent[str, tuple[dict[str, str], list[Check]]] = Recent(MOST_MODULES)

    async def generate(self, request: GenerateRequest) -> Module:
        """The six files, what was checked, and the facts of the model.

        Raises:
            InvalidModel: the address is none of a model.
            ModelNotFound: the Hub has no such model or revision.
            ModelRefused: no module is made for it; `details.reason` says why.
            HubUnavailable: the Hub is away, slow or answers nonsense.
        """
        snapshot, age = await self.snapshots.read(
            address.parse(request.model_url, request.revision)
        )
        task, library, checks = refusals.check(snapshot, request.accept)
        limits = {
            "largest_vram": self.settings.largest_vram_mib,
            "largest_memory": self.settings.largest_memory_mib,
        }
        options, unused = resources.settle_batch(task, request.options)
        needs, warnings = resources.estimate(
            snapshot, task, options, **limits, accept=request.accept
        )
        if self.measurements.bus is not None:
            profile = await self.measurements.of(snapshot, needs)
            needs, said = measured.apply(needs, profile, options, **limits)
            replaced = {check.name for check in said}
            warnings = [check for check in warnings if check.name not in replaced] + said
        module = manifest.describe(snapshot, task, library, needs, self.digests)
        files, rendered = self._render(module)
        return Module(
            files=files,
            validation=_conclude(
                [
                    _freshness(age),
                    *checks,
                    *unused,
                    *warnings,
                    _base(module.run.base_image),
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
                measured=needs.measured,
            ),
        )

    async def package(self, request: GenerateRequest) -> Package:
        """The same files as a zip. Raises as `generate` does."""
        module = await self.generate(request)
        return archive.pack(manifest.slug(module.model.id), module.model.commit, module.files)

    def _render(self, module: Manifest) -> tuple[dict[str, str], list[Check]]:
        key = module.model_dump_json()
        kept = self._rendered.look(key)
        if kept is None:
            files = rendering.render(module)
            kept = files, validation.check(module, files)
            self._rendered.keep(key, kept)
        failed = [check.message for check in kept[1] if check.outcome == "failed"]
        if failed:
            raise ModelRefused(
                "the module's files did not pass their checks and are not handed out",
                reason="validation",
                checks=failed,
            )
        return kept


def _freshness(age: float) -> Check:
    if age:
        minutes = round(age / 60)
        return Check(
            name="hub",
            outcome="warning",
            message=f"the Hugging Face Hub is away: this is the model as it was {minutes} min ago",
        )
    return Check(name="hub", outcome="passed", message="the Hub's present answer")


def _base(image: str) -> Check:
    """A version can be moved by its owner; a digest cannot. An operator asks for it."""
    known = "" if "@" in image else "; its digest is not known: python -m generator.images FILE"
    return Check(name="base image", outcome="passed", message=image + known)


def _conclude(checks: list[Check]) -> Validation:
    concerns = [check.message for check in checks if check.outcome != "passed"]
    return Validation(status="warnings" if concerns else "passed", errors=concerns, checks=checks)
