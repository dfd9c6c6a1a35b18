"""A script that runs every good model of the Hub in HF_ENDPOINT and prints the answers.

A program of its own: transformers reads HF_ENDPOINT once, when it is imported.
"""

import json
import sys
from pathlib import Path

import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

LOADERS = {
    "lilypad/tiny-text-classification": (AutoTokenizer, AutoModelForSequenceClassification),
    "lilypad/tiny-text-generation": (AutoTokenizer, AutoModelForCausalLM),
    "lilypad/tiny-feature-extraction": (AutoTokenizer, AutoModel),
    "lilypad/tiny-sentence-similarity": (AutoTokenizer, AutoModel),
    "lilypad/tiny-image-classification": (AutoImageProcessor, AutoModelForImageClassification),
    "lilypad/tiny-internal-attention": (AutoTokenizer, AutoModelForSequenceClassification),
}


def load(repo: str) -> dict[str, object]:
    processor_class, model_class = LOADERS[repo]
    commit = HfApi().model_info(repo).sha
    processor = processor_class.from_pretrained(repo, revision=commit)
    model = model_class.from_pretrained(repo, revision=commit, use_safetensors=True).eval()
    if processor_class is AutoImageProcessor:
        inputs = processor(Image.new("RGB", (64, 48), "green"), return_tensors="pt")
    else:
        inputs = processor("the frog loved a film, 7 times: 蛙", return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)[0]
    read = {
        "finite": bool(torch.isfinite(outputs).all()),
        "labels": list(model.config.id2label.values()),
    }
    if model_class is AutoModelForCausalLM:
        generated = model.generate(**inputs, do_sample=False)[0]
        read["text"] = processor.decode(generated, skip_special_tokens=True)
        read["chat"] = processor.apply_chat_template(
            [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
        )
    return read


def load_remote_code() -> dict[str, bool]:
    repo = "lilypad/tiny-remote-code"
    try:
        AutoModelForCausalLM.from_pretrained(repo, trust_remote_code=False)
    except ValueError:
        refused = not Path("remote-code-ran").exists()
    AutoModelForCausalLM.from_pretrained(repo, trust_remote_code=True)
    return {"refused": refused, "ran": Path("remote-code-ran").exists()}


loaded = {repo: load(repo) for repo in LOADERS}
json.dump(loaded | {"remote code": load_remote_code()}, sys.stdout)
