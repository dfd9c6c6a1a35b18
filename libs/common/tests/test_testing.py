import pytest

from common.contracts.generation import GENERATE, GenerateRequest, Module
from common.errors import ModelRefused, Unavailable
from common.testing import MemoryBus


async def test_the_memory_bus_reports_a_missing_service_as_unavailable() -> None:
    with pytest.raises(Unavailable, match="generator service is unavailable"):
        await MemoryBus().call(GENERATE, GenerateRequest(model_url="gpt2"))


async def test_the_memory_bus_restores_errors_from_their_wire_form() -> None:
    bus = MemoryBus()

    async def refuse(_: GenerateRequest) -> Module:
        raise ModelRefused("no", reason="gated")

    bus.answer(GENERATE, refuse)
    with pytest.raises(ModelRefused) as caught:
        await bus.call(GENERATE, GenerateRequest(model_url="gpt2"))
    assert caught.value.details == {"reason": "gated"}
