"""Modules of ONNX files answer like the PyTorch models that the files were exported from."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.contracts.generation import GenerateOptions, GenerateRequest
from common.errors import InvalidRequest, ModelRefused
from generator import onnx_reading
from generator.description import Description, Sibling
from generator.handlers import Handlers
from generator.hub import Hub
from generator.layout import Layout
from generator.selection import File
from generator.snapshot import Snapshot
from generator.templates.inference.checkpoint import IncompleteModel
from generator.templates.inference.graphs import compute
from generator.weights import Weights
from hub.testing import RunningHub

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub
from modules import Built, build

TEXTS = ["the frog is on the lily pad", "who is happy?", "a frog"]
# A model, the inputs beside its texts, and the answers' family.
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("similarity", {"query": "a happy frog"}),
    ("features", {}),
    ("classes", {"top_k": 2}),
    ("tokens", {"aggregation_strategy": "none"}),
    ("ranking", {"query": "a happy frog"}),
]


@pytest.fixture
def make(handlers: Handlers, hub: RunningHub, tmp_path: Path) -> Callable[..., Any]:
    async def built(kind: str, branch: str = "main", **options: Any) -> tuple[Built, Any]:
        generated = await handlers.generate(
            GenerateRequest(
                model_url=f"lilypad/tiny-onnx-{kind}",
                revision=branch,
                options=GenerateOptions(**options),
            )
        )
        folder = tmp_path / f"{kind}-{branch}-{len(options)}"
        module = build(generated.files, folder, fetched=False)
        module.fetch_here(hub.url)
        return module, generated

    return built


def near(value: Any) -> Any:
    """Return an answer for comparison within 1e-4."""
    if isinstance(value, dict):
        return {key: near(item) for key, item in value.items()}
    if isinstance(value, list):
        return [near(item) for item in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


@pytest.mark.parametrize(("kind", "parameters"), KINDS)
async def test_a_module_of_an_onnx_file_answers_like_the_model_that_it_was_exported_from(
    kind: str, parameters: dict[str, Any], make: Callable[..., Any]
) -> None:
    module, _ = await make(kind)
    paths = [file["path"] for file in module.manifest["model"]["files"]]
    assert module.manifest["run"]["file"] in paths
    assert "model.safetensors" not in paths
    original, _ = await make(kind, "original")
    assert "onnxruntime" not in original.files["requirements.txt"]
    request = {"inputs": TEXTS, "parameters": parameters}
    code, expected = original.run_here(request)
    assert code == 0, expected
    code, result = module.run_here(request)
    assert code == 0, result
    assert result["outputs"] == near(expected["outputs"])


@pytest.mark.long
async def test_a_module_of_an_onnx_file_runs_in_its_image_without_a_network(
    make: Callable[..., Any],
) -> None:
    module, generated = await make("features")
    paths = [file["path"] for file in module.manifest["model"]["files"]]
    assert {"onnx/model.onnx", "onnx/model.onnx_data", "config.json"} <= {*paths}
    assert "about " in module.files["README.md"]
    assert "`onnx/model.onnx`, by onnxruntime" in module.files["README.md"]
    run, resources = module.manifest["run"], module.manifest["resources"]
    assert (run["stack"], run["dtype"], resources["gpu"]) == ("onnx", "float32", 0)
    assert generated.validation.status == "passed", generated.validation.errors
    code, result = module.run(request={"inputs": TEXTS[:1]})
    assert code == 0, result
    assert len(result["outputs"][0][0]) == 10


async def test_the_option_file_selects_an_onnx_file_even_beside_other_weights(
    make: Callable[..., Any],
) -> None:
    module, _ = await make("similarity", "original", file="onnx/model.onnx")
    paths = [file["path"] for file in module.manifest["model"]["files"]]
    assert "model.safetensors" not in paths
    assert "2_Dense/model.safetensors" in paths
    _, result = module.run_here({"inputs": TEXTS})
    original, _ = await make("similarity", "original")
    _, expected = original.run_here({"inputs": TEXTS})
    assert result["outputs"] == near(expected["outputs"])
    with pytest.raises(InvalidRequest, match=r"no such ONNX file; it has onnx/model\.onnx$"):
        await make("similarity", "original", file="model.onnx")


async def test_a_quantized_onnx_file_and_a_requested_gpu_cause_warnings(
    make: Callable[..., Any],
) -> None:
    with pytest.raises(
        ModelRefused, match=r"ONNX weights only, without model\.onnx.*options\.file"
    ):
        await make("similarity", "quantized")
    file = "onnx/model_quantized.onnx"
    module, generated = await make("similarity", "quantized", file=file, gpu=True)
    assert module.manifest["run"]["file"] == file
    warnings = generated.validation.errors
    assert any(f"{file} is quantized, by its name" in text for text in warnings)
    assert any("request no GPU" in text for text in warnings)
    plain, _ = await make("similarity")
    assert module.manifest["model"]["parameters"] > 3 * plain.manifest["model"]["parameters"]


async def test_onnx_files_of_other_tasks_are_refused_by_name(handlers: Handlers) -> None:
    request = GenerateRequest(model_url="lilypad/tiny-onnx-masks")
    with pytest.raises(ModelRefused, match="modules for fill-mask do not run") as caught:
        await handlers.generate(request)
    assert caught.value.details["reason"] == "library"


async def test_an_onnx_file_does_not_take_the_place_of_a_routers_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = {"query": "Transformer", "document": "Transformer"}
    laid_out = Layout("sentence-transformers", tuple(folders), classes=folders)
    file = Sibling(rfilename="model.onnx", size=4, blobId="b" * 40)
    described = Description(id="acme/frog", sha="c" * 40, siblings=[file])
    routed = Snapshot(described, (), frozenset(), {"model_type": "bert"}, None, laid_out)

    async def read_commit(*_: Any) -> Snapshot:
        return routed

    monkeypatch.setattr("generator.onnx_reading.read_commit", read_commit)
    with pytest.raises(ModelRefused, match="2 transformers, and an ONNX file is one"):
        await onnx_reading.read_model(Hub("http://hub.invalid"), described, "model.onnx")


async def test_an_onnx_file_takes_the_place_of_a_transformer_in_a_folder_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laid_out = Layout(
        "sentence-transformers",
        ("0_Transformer", "1_Dense"),
        classes={"0_Transformer": "Transformer", "1_Dense": "Dense"},
    )
    graph = Sibling(rfilename="model.onnx", size=4_000, blobId="b" * 40)
    described = Description(id="acme/frog", sha="c" * 40, siblings=[graph])
    paths = [f"{folder}/model.safetensors" for folder in laid_out.folders]
    files = tuple(File(path, 400, None, "b" * 40) for path in paths)
    found = Snapshot(described, files, frozenset(), {"model_type": "bert"}, None, laid_out)

    async def read_commit(*_: Any) -> Snapshot:
        return found

    monkeypatch.setattr("generator.onnx_reading.read_commit", read_commit)
    read = await onnx_reading.read_model(Hub("http://hub.invalid"), described, "model.onnx")
    assert [file.path for file in read.files] == ["1_Dense/model.safetensors", "model.onnx"]
    assert read.weights is not None
    assert read.weights.elements == {"F32": 1_100}


class Node:
    def __init__(self, name: str, type: str = "tensor(int64)") -> None:
        self.name, self.type = name, type


class Session:
    """A session of onnxruntime with these inputs and outputs."""

    def __init__(self, inputs: list[str], outputs: list[str]) -> None:
        self.inputs, self.outputs = inputs, outputs

    def get_inputs(self) -> list[Node]:
        return [Node(name) for name in self.inputs]

    def get_outputs(self) -> list[Node]:
        return [Node(name) for name in self.outputs]

    def run(self, names: list[str], features: dict[str, Any]) -> list[Any]:
        assert names == self.outputs
        return [features["input_ids"].astype("float32")]


@pytest.mark.parametrize(
    ("inputs", "outputs", "headless", "message"),
    [
        (["input_ids"], ["logits"], False, "has no attention_mask"),
        (["input_ids", "attention_mask", "pixels"], ["logits"], False, "needs pixels"),
        (["input_ids", "attention_mask"], ["a", "b"], False, "no output logits"),
        (["input_ids", "attention_mask"], ["a", "b"], True, "no output last_hidden_state"),
        (["input_ids", "attention_mask"], ["sentence_embedding"], True, "no vectors of tokens"),
    ],
)
def test_a_graph_that_cannot_answer_is_an_error_that_names_what_is_missing(
    inputs: list[str], outputs: list[str], headless: bool, message: str
) -> None:
    ids, mask = torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [1, 1, 0]])
    with pytest.raises(IncompleteModel, match=message):
        compute(
            Session(inputs, outputs),
            {"input_ids": ids, "attention_mask": mask},
            headless=headless,
        )


async def test_a_pointer_of_git_lfs_in_place_of_an_onnx_file_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"

    async def part(*_: Any) -> bytes:
        return pointer

    monkeypatch.setattr(Hub, "part", part)
    names = ("config.json", "tokenizer.json", "onnx/model.onnx")
    listed = [{"rfilename": name, "size": len(pointer), "blobId": fake_hub.BLOB} for name in names]
    with pytest.raises(ModelRefused, match="Git LFS pointer"):
        await fake_hub.handlers(siblings=listed).generate(GenerateRequest(model_url="acme/frog"))


DISTILBERT = {
    "model_type": "distilbert",
    "architectures": ["DistilBertForSequenceClassification"],
}


def listed(size: int, *names: str) -> list[dict[str, Any]]:
    """Return a repository's files: an ONNX file of this size, its configs and these others."""
    others = ("config.json", "tokenizer.json", *names)
    return [
        {"rfilename": "onnx/model.onnx", "size": size, "blobId": fake_hub.BLOB},
        *({"rfilename": name, "size": 2, "blobId": fake_hub.BLOB} for name in others),
    ]


@pytest.mark.parametrize(
    ("size", "config", "message"),
    [
        (0, {}, r"onnx/model\.onnx is empty"),
        (400, {}, "too small for the 2 layers"),
        (50_000_000, {"num_hidden_layers": 3_000_000}, "too small for the 3,000,000 layers"),
        (2**30, {"hidden_size": 768, "num_hidden_layers": 9_000}, "too small for the 9,000 layers"),
        (50_000_000, DISTILBERT | {"n_layers": 3_000_000}, "too small for the 3,000,000 layers"),
    ],
)
async def test_an_onnx_file_without_room_for_the_layers_of_its_config_is_refused(
    size: int, config: dict[str, Any], message: str
) -> None:
    handlers = fake_hub.handlers(config, siblings=listed(size))
    with pytest.raises(ModelRefused, match=message) as caught:
        await handlers.generate(GenerateRequest(model_url="acme/frog"))
    assert caught.value.details["reason"] == "incomplete"


async def test_an_onnx_file_with_room_for_the_layers_of_its_config_is_served() -> None:
    config = {"hidden_size": 768, "num_hidden_layers": 12}
    handlers = fake_hub.handlers(config, siblings=listed(44_000_000))
    assert (await handlers.generate(GenerateRequest(model_url="acme/frog"))).model.parameters


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("onnx/model.onnx_data", r"the numbers of an ONNX file; name onnx/model\.onnx$"),
        ("onnx/model.onnx_data_1", r"the numbers of an ONNX file; name onnx/model\.onnx$"),
        ("BIG.ONNX", r"names of ONNX files must .* end in \.onnx: that of BIG\.ONNX has not"),
        ("BIG.GGUF", r"names of GGUF files must .* end in \.gguf: that of BIG\.GGUF has not"),
        ("a/b/c/d/e.onnx", r"be at most 3 folders deep .*: that of a/b/c/d/e\.onnx has not"),
        ("ABSENT.ONNX", r"no such ONNX file; it has onnx/model\.onnx$"),
        ("ABSENT.GGUF", r"names of GGUF files must .* the repository's have not"),
        ("model.safetensors", r"selects a GGUF or an ONNX file, .*leave the option out"),
        ("absent.bin", r"selects a GGUF or an ONNX file, .*leave the option out"),
    ],
)
async def test_the_option_file_explains_why_it_does_not_select_a_file(
    file: str, message: str
) -> None:
    names = ("onnx/model.onnx_data", "onnx/model.onnx_data_1", "BIG.ONNX", "BIG.GGUF")
    handlers = fake_hub.handlers(
        siblings=listed(400_000, *names, "a/b/c/d/e.onnx", "model.safetensors")
    )
    request = GenerateRequest(model_url="acme/frog", options=GenerateOptions(file=file))
    with pytest.raises(InvalidRequest, match=message):
        await handlers.generate(request)


@pytest.mark.parametrize(
    ("laid_out", "config", "message", "reason"),
    [
        (
            Layout("sentence-transformers", ("",), classes={"": "StaticEmbedding"}),
            {},
            "no transformer, whose place an ONNX file could take",
            "library",
        ),
        (Layout(), {}, "no config.json, which says what an ONNX file computes", "config"),
    ],
)
async def test_an_onnx_file_that_nothing_explains_is_not_called_the_only_weights(
    laid_out: Layout,
    config: dict[str, Any],
    message: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = Sibling(rfilename="model.onnx", size=4_000, blobId="b" * 40)
    described = Description(id="acme/frog", sha="c" * 40, siblings=[graph])
    own = Weights({"F32": 100}, 400, None)
    found = Snapshot(described, (), frozenset(("safetensors",)), config, own, laid_out)

    async def read_commit(*_: Any) -> Snapshot:
        return found

    monkeypatch.setattr("generator.onnx_reading.read_commit", read_commit)
    with pytest.raises(ModelRefused, match=message) as caught:
        await onnx_reading.read_model(Hub("http://hub.invalid"), described, "model.onnx")
    assert caught.value.details["reason"] == reason
    assert caught.value.message.endswith("the model's own weights, without options.file")


async def test_an_onnx_file_named_beside_other_weights_is_not_called_the_only_weights() -> None:
    handlers = fake_hub.handlers(
        {"architectures": ["BertForMaskedLM"]},
        pipeline_tag="fill-mask",
        siblings=listed(400_000, "pytorch_model.bin"),
    )
    request = GenerateRequest(
        model_url="acme/frog", options=GenerateOptions(file="onnx/model.onnx")
    )
    with pytest.raises(ModelRefused, match="modules for fill-mask do not run ONNX files") as caught:
        await handlers.generate(request)
    assert caught.value.message.endswith("the model's own weights, without options.file")
