"""The Hub's document about a model, under `/api/models/{id}`.

As on the real Hub everything is derived from the repository's content (the card's front matter,
config.json, weight headers), so a hostile card gives a hostile document.
"""

import hashlib
import json
import math
import re
from typing import Any

import yaml

from hub.gguf import read_gguf
from hub.repository import DATE, Commit, File, Repository

PIPELINES = {  # the task behind "AutoModelFor<...>", where the card names none
    "CausalLM": "text-generation",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MaskedLM": "fill-mask",
    "Seq2SeqLM": "text2text-generation",
    "ConditionalGeneration": "text2text-generation",
    "ImageClassification": "image-classification",
    "ObjectDetection": "object-detection",
    "SemanticSegmentation": "image-segmentation",
    "DepthEstimation": "depth-estimation",
    "AudioClassification": "audio-classification",
    "CTC": "automatic-speech-recognition",
    "SpeechSeq2Seq": "automatic-speech-recognition",
}
Document = dict[str, Any]


def model_info(repository: Repository, commit: Commit, *, blobs: bool, security: bool) -> Document:
    """Return the document at a commit; `blobs` adds sizes and ids, `security` the scan."""
    model = repository.model
    card = front_matter(commit)
    config = summary_of_config(commit)
    transformers_info = summary_for_transformers(commit, config)
    library = card.get("library_name") or guessed_library(commit, config)
    task = card.get("pipeline_tag") or transformers_info.get("pipeline_tag")
    weights = safetensors_summary(commit)
    document: Document = {
        "_id": hashlib.sha256(model.id.encode()).hexdigest()[:24],
        "id": model.id,
        "private": model.private,
        "pipeline_tag": task,
        "library_name": library,
        "tags": tags(commit, card, config, library, task),
        "downloads": 0,
        "likes": 0,
        "modelId": model.id,
        "author": model.id.split("/", maxsplit=1)[0],
        "sha": commit.sha,
        "lastModified": DATE,
        "createdAt": DATE,
        "gated": model.gated,
        "disabled": model.disabled,
        "model-index": None,
        "config": config,
        "cardData": card,
        "transformersInfo": transformers_info,
        "safetensors": weights,
        "gguf": gguf_summary(commit),
        "siblings": [sibling(file, blobs) for file in commit.files.values()],
        "spaces": [],
        "usedStorage": sum(file.size for file in commit.files.values()),
    }
    if security:
        document["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": issues(commit)}
    absent = ("pipeline_tag", "library_name", "transformersInfo", "safetensors", "gguf")
    return {name: value for name, value in document.items() if value or name not in absent}


def sibling(file: File, blobs: bool) -> Document:
    entry: Document = {"rfilename": file.path}
    if blobs:
        entry |= {"blobId": file.oid, "size": file.size}
        if file.is_lfs:
            entry["lfs"] = {
                "sha256": file.sha256,
                "size": file.size,
                "pointerSize": len(file.pointer),
            }
    return entry


def tags(
    commit: Commit, card: Document, config: Document, library: str | None, task: str | None
) -> list[str]:
    formats = [("safetensors", ".safetensors"), ("pytorch", ".bin"), ("gguf", ".gguf")]
    relations = [
        library,
        *(name for name, suffix in formats if any_ends(commit, suffix)),
        config.get("model_type"),
        task,
        *card.get("tags", []),
        *card.get("language", []),
        "custom_code" if "auto_map" in config else None,
        f"license:{card['license']}" if "license" in card else None,
        "region:us",
    ]
    return list(dict.fromkeys(str(tag) for tag in relations if tag))


def summary_of_config(commit: Commit) -> Document:
    """Return the fields of config.json and tokenizer_config.json that the real Hub shows."""
    config = json_file(commit, "config.json")
    summary = {
        name: config[name] for name in ("architectures", "auto_map", "model_type") if name in config
    }
    tokenizer = json_file(commit, "tokenizer_config.json")
    special = {
        name: value
        for name, value in tokenizer.items()
        if name.endswith("_token") or name == "chat_template"
    }
    return summary | ({"tokenizer_config": special} if special else {})


def summary_for_transformers(commit: Commit, config: Document) -> Document:
    """Return the auto class, task and processor that transformers would take; empty if none."""
    architecture = (config.get("architectures") or [""])[0]
    match = re.search(r"For([A-Z]\w*)$|(LMHead)?Model$", architecture)
    if not match:
        return {}
    head = match[1] or ("CausalLM" if match[2] else "")
    auto = f"AutoModelFor{head}" if head else "AutoModel"
    info = {"auto_model": auto}
    if auto in config.get("auto_map", {}):
        info["custom_class"] = config["auto_map"][auto]
    if head in PIPELINES:
        info["pipeline_tag"] = PIPELINES[head]
    processor = "AutoImageProcessor" if "preprocessor_config.json" in commit.files else None
    if "tokenizer_config.json" in commit.files:
        processor = "AutoProcessor" if processor else "AutoTokenizer"
    return info | ({"processor": processor} if processor else {})


def guessed_library(commit: Commit, config: Document) -> str | None:
    if "model_index.json" in commit.files:
        return "diffusers"
    if "modules.json" in commit.files:
        return "sentence-transformers"
    return "transformers" if config.get("architectures") else None


def safetensors_summary(commit: Commit) -> Document | None:
    """Return parameters by dtype and in total, from weights' headers; None if a header is false."""
    shards = [
        file for path, file in commit.files.items() if re.fullmatch(r"model.*\.safetensors", path)
    ]
    parameters: dict[str, int] = {}
    try:
        for shard in shards:
            for dtype, shape in tensors(shard):
                parameters[dtype] = parameters.get(dtype, 0) + math.prod(shape)
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return {"parameters": parameters, "total": sum(parameters.values())} if parameters else None


def gguf_summary(commit: Commit) -> Document | None:
    files = [file for path, file in commit.files.items() if path.endswith(".gguf")]
    return dict(read_gguf(files[0].stored)) if files else None


def tensors(shard: File) -> list[tuple[str, list[int]]]:
    with shard.stored.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return [
        (tensor["dtype"], tensor["shape"])
        for name, tensor in header.items()
        if name != "__metadata__"
    ]


def issues(commit: Commit) -> list[Document]:
    """Return the malicious pickles, as the Hub's security scan reports them."""
    return [
        {"path": path, "level": "unsafe"}
        for path, file in commit.files.items()
        if path.endswith(".bin") and b"cpathlib\n" in file.stored.read_bytes()
    ]


def front_matter(commit: Commit) -> Document:
    readme = commit.files.get("README.md")
    text = readme.stored.read_text(encoding="utf-8") if readme else ""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    loaded = yaml.safe_load(match[1]) if match else None
    return loaded if isinstance(loaded, dict) else {}


def json_file(commit: Commit, path: str) -> Document:
    if path not in commit.files:
        return {}
    loaded = json.loads(commit.files[path].stored.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def any_ends(commit: Commit, suffix: str) -> bool:
    return any(path.endswith(suffix) for path in commit.files)
