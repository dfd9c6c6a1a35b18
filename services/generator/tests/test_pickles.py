"""Modules of models with pickled weights, and pickles that are read without being run."""

import hashlib
import io
import json
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from common.contracts.generation import GenerateRequest
from common.errors import ModelRefused
from generator import gguf_files, pickles, selection
from generator.description import Description
from generator.handlers import Handlers
from generator.layout import Layout
from generator.pickles import Pickled
from generator.templates.inference import conversion
from generator.weights import Index
from hub.catalogue import MODELS
from hub.making import make_missing
from hub.testing import RunningHub, default_models_dir

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, build, execute

TEXTS = ["the frog is on the lily pad", "never"]


def published(name: str, branch: str = "main") -> Path:
    """Return the folder of the whole repository, as its author pushed it."""
    model = next(model for model in MODELS if model.id == name)
    return make_missing([model], default_models_dir())[name] / branch


async def module_of(
    name: str, handlers: Handlers, hub: RunningHub, folder: Path, branch: str = "main"
) -> Built:
    """Generate a model's module, and fetch and convert its weights."""
    generated = await handlers.generate(GenerateRequest(model_url=name, revision=branch))
    assert any("pickled weights only" in text for text in generated.validation.errors)
    module = build(generated.files, folder / branch, fetched=False)
    module.fetch_here(hub.url)
    module.script()["convert"](module.manifest, module.app / "model")
    return module


def outputs(module: Built, request: Any) -> Any:
    """Run a converted module in this process, and return its answers."""
    names = module.script()
    manifest = names["converted"](module.manifest, module.app / "model")
    files = {**module.files, "module.yaml": json.dumps(manifest)}
    code, result = Built(module.app, files, module.environment, module.entrypoint).run_here(request)
    assert code == 0, result
    return result["outputs"]


def near(values: Any) -> Any:
    return pytest.approx(values, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("branch", ["main", "sharded"])
async def test_a_module_of_pickled_weights_answers_like_the_library(
    branch: str, handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    module = await module_of("lilypad/pickled", handlers, hub, tmp_path, branch)
    folder = published("lilypad/pickled", branch)
    library = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    weights = sum(weight.numel() for weight in library.model.parameters())
    assert module.manifest["model"]["parameters"] == weights
    for answer, expected in zip(
        outputs(module, {"inputs": TEXTS}), library(TEXTS, top_k=None), strict=True
    ):
        assert {one["label"]: one["score"] for one in answer} == near(
            {one["label"]: one["score"] for one in expected}
        )
    assert "the converted ones against `model/conversion.json`" in module.files["README.md"]
    left = {path.name for path in (module.app / "model").iterdir()}
    assert not any(name.endswith(".bin") or "pytorch" in name for name in left)
    record = json.loads((module.app / "model" / conversion.RECORD).read_text())
    size = 0
    for file in record["files"]:
        written = (module.app / "model" / file["path"]).read_bytes()
        assert (hashlib.sha256(written).hexdigest(), len(written)) == (file["sha256"], file["size"])
        size += len(written)
        source = (folder / file["from"]["path"]).read_bytes()
        if "sha256" in file["from"]:
            assert hashlib.sha256(source).hexdigest() == file["from"]["sha256"]
    # Beside the numbers there are the headers, and an index.
    assert 0 <= size - module.manifest["model"]["weightBytes"] < 20_000
    if branch == "main":
        return
    # Without its conversion a module ends before anything is loaded, and its result says why.
    for content in ("{", '{"files": [7]}', None):
        path = module.app / "model" / conversion.RECORD
        path.unlink() if content is None else path.write_text(content)
        code, result = module.run(request={"inputs": TEXTS})
        assert (code, result["status"]) == (1, "error")
        assert "were not converted: python run_inference.py convert" in result["error"]["message"]


@pytest.mark.parametrize("branch", ["main", "first"])
async def test_weights_that_share_numbers_are_counted_once_and_written_by_each_name(
    branch: str, handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    module = await module_of("lilypad/pickled-tied", handlers, hub, tmp_path, branch)
    folder = published("lilypad/pickled-tied", branch)
    is_zip = zipfile.is_zipfile(folder / "pytorch_model.bin")
    assert is_zip == (branch == "main")
    loaded = torch.load(folder / "pytorch_model.bin", weights_only=True)
    written = load_file(module.app / "model" / "model.safetensors")
    assert written.keys() == loaded.keys() > {"shared.weight", "encoder.embed_tokens.weight"}
    assert all(torch.equal(written[name], loaded[name]) for name in loaded)
    library = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    weights = sum(weight.numel() for weight in library.parameters())
    assert module.manifest["model"]["parameters"] == weights
    request = {"inputs": TEXTS, "parameters": {"max_new_tokens": 8}}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = [
        tokenizer.decode(
            library.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=8)[0],
            skip_special_tokens=True,
        )
        for text in TEXTS
    ]
    answers = outputs(module, request)
    assert [answer["translation_text"] for answer in answers] == expected


async def test_a_sentence_model_of_pickled_weights_answers_like_the_library(
    handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    module = await module_of("lilypad/pickled-sentences", handlers, hub, tmp_path)
    library = SentenceTransformer(str(published("lilypad/pickled-sentences")), device="cpu")
    for answer, vector in zip(
        outputs(module, {"inputs": TEXTS}), library.encode(TEXTS), strict=True
    ):
        assert answer == near(vector.tolist())


@pytest.mark.long
async def test_the_dockerfile_converts_without_a_network_and_the_module_runs(
    handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    generated = await handlers.generate(GenerateRequest(model_url="lilypad/pickled"))
    module = build(generated.files, tmp_path / "module", HF_ENDPOINT=hub.url)
    code, result = module.run({"text": "who is happy?"})
    assert (code, result["status"]) == (0, "success"), result


class Payload:
    """A value whose pickle runs a command."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.place}",)


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def read(content: bytes) -> Pickled:
    """Read a file's tensors as the generator does."""
    place = pickles.directory_range(content[-pickles.END_BYTES :], len(content))
    assert place
    begin, length = place
    directory = pickles.read_directory(content[begin : begin + length])
    offset, size = directory.pickle.offset, directory.pickle.size
    part = content[offset : offset + size + pickles.MAX_LOCAL_BYTES]
    return pickles.read_pickle(part, directory.storages, size)


def with_pickle(content: bytes, written: bytes) -> bytes:
    """Return a copy of a file that torch.save wrote, with another pickle."""
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(copy, "w") as new:
        for entry in old.infolist():
            given = written if entry.filename.endswith("data.pkl") else old.read(entry)
            new.writestr(entry.filename, given)
    return copy.getvalue()


def test_tensors_are_read_as_torch_loads_them() -> None:
    weight = torch.randn(3, 4)
    module = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))
    tensors = OrderedDict(
        module.state_dict(),
        weight=weight,
        tied=weight,
        half=torch.ones(2, dtype=torch.bfloat16),
        parameter=torch.nn.Parameter(torch.zeros(5)),
        turned=weight.T,
        empty=torch.empty(0, 7),
        part=torch.arange(10)[3:5],
    )
    found = read(saved(tensors))
    assert found.header.names == frozenset(tensors)
    assert found.header.elements == {
        "F32": 2 * 4 + 2 + 4 * 2 + 12 + 12 + 5,
        "I64": 1 + 2,
        "BF16": 2,
    }
    assert found.bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_a_pickle_that_does_more_than_build_tensors_is_refused_and_never_run(
    tmp_path: Path,
) -> None:
    good = {"weight": torch.randn(2)}
    trap = tmp_path / "ran"
    hostile = [
        saved({**good, "more": Payload(trap)}),
        with_pickle(saved(good), pickle.dumps(Payload(trap), protocol=2)),
        with_pickle(saved(good), pickle.dumps(Payload(trap), protocol=4)),
        with_pickle(saved(good), pickle.dumps(Payload(trap), protocol=0)),
        with_pickle(saved(good), b"\x80\x02cbuiltins\nexec\nX\x01\x00\x00\x00a\x85R."),
        saved({"weight": 7}),
        saved([torch.ones(2)]),
        saved({"optimizer": {"weight": torch.ones(2)}}),
        saved(torch.nn.Linear(2, 2)),
    ]
    for content in hostile:
        with pytest.raises(ModelRefused, match="does more than hold tensors") as caught:
            read(content)
        assert caught.value.details["reason"] == "pickle-only"
    assert not trap.exists()


def test_a_broken_pickle_is_refused() -> None:
    good = saved({"weight": torch.randn(2, 3)})
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        written = archive.read("archive/data.pkl")
    shape = b"K\x02K\x03\x86"
    assert shape in written
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", written)
    broken = [
        b"",
        with_pickle(good, b""),
        with_pickle(good, written[:-20]),
        with_pickle(good, b"\x80\x02" + b"(" * 1000 + b"."),
        with_pickle(good, b"\x80\x02r\xff\xff\xff\x7f."),
        with_pickle(good, written.replace(shape, b"K\x02K\x04\x86")),
        with_pickle(good, written.replace(shape, b"K\x02J\xff\xff\xff\x7f\x86")),
        # A name that is half of a character beyond 16 bits: no JSON can hold it.
        with_pickle(good, written.replace(b"weight", b"wei\xed\xb2\x80")),
        packed.getvalue(),
        good.replace(b"PK\1\2", b"PK\0\0"),
    ]
    for content in broken:
        with pytest.raises(ModelRefused, match="pickled weights only, and a file of them cannot"):
            read(content)


def test_shards_are_numbered_in_ascii_digits() -> None:
    digits = str.maketrans("01", "\u0660\u0661")
    names = ["pytorch_model-00001-of-00001.bin", "model-00001-of-00001.gguf"]
    assert selection.converted_name(names[0]) == "model-00001-of-00001.safetensors"
    assert gguf_files.SPLIT.fullmatch(names[1])
    assert selection.converted_name(names[0].translate(digits)) is None
    assert not gguf_files.SPLIT.fullmatch(names[1].translate(digits))


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("model.safetensors.index.json", "pytorch_model-00001-of-00001.bin"),
        ("pytorch_model.bin.index.json", "model-00001-of-00001.safetensors"),
    ],
)
def test_an_index_of_shards_of_the_other_kind_is_refused(index: str, shard: str) -> None:
    files = [{"rfilename": name, "size": 9, "blobId": "b" * 40} for name in (index, shard)]
    described = Description.model_validate({"id": "a/b", "sha": "a" * 40, "siblings": files})
    places = {"": Index(frozenset([shard]), None)}
    with pytest.raises(ModelRefused, match="some of the model's weight files are missing"):
        selection.needed(described, Layout(), places, pickled=True)


def test_a_directory_beyond_32_bits_is_read() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    content = bytearray(file.getvalue())
    begin = content.rfind(b"PK\1\2")
    entry = content[begin : content.rfind(b"PK\5\6")]
    entry[42:46] = b"\xff" * 4
    entry[30:32] = (12).to_bytes(2, "little")
    wide = bytes(entry) + b"\1\0\x08\0" + (5 * 2**32).to_bytes(8, "little")
    assert pickles.read_directory(wide).pickle.offset == 5 * 2**32
    zip64 = b"PK\6\6" + bytes(36) + (50).to_bytes(8, "little") + (6 * 2**32).to_bytes(8, "little")
    end = b"PK\5\6" + bytes(6) + b"\xff\xff" + b"\xff" * 8 + bytes(2)
    assert pickles.directory_range(zip64 + bytes(20) + end, 7 * 2**32) == (6 * 2**32, 50)


async def test_a_malicious_pickle_is_refused_by_its_names(
    handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    with pytest.raises(ModelRefused, match="does more than hold tensors"):
        await handlers.generate(GenerateRequest(model_url="lilypad/tiny-malicious-pickle"))
    with pytest.raises(ModelRefused, match="it has more than tensors"):
        await handlers.generate(GenerateRequest(model_url="lilypad/tiny-pickle"))


async def test_a_conversion_runs_no_code_of_a_pickle(
    handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    generated = await handlers.generate(GenerateRequest(model_url="lilypad/pickled"))
    module = build(generated.files, tmp_path / "module", fetched=False)
    module.fetch_here(hub.url)
    trap = tmp_path / "ran"
    file = module.app / "model" / "pytorch_model.bin"
    file.write_bytes(saved({"weight": Payload(trap)}))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        module.script()["convert"](module.manifest, module.app / "model")
    # The command compares the digest first.
    done = execute([*module.entrypoint, "convert"], module.app, module.environment)
    assert done.returncode == 1
    assert "has another size than module.yaml says" in done.stderr
    assert not trap.exists()
