"""Makers of adapters, by PEFT."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from hub.families import llama_generator, write_json


def lora(folder: Path, base: str = "lilypad/tiny-text-generation", rank: int = 4) -> None:
    """Make an adapter of a Llama's attention, whose base is named but not part of it."""
    llama_generator(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for path in folder.iterdir():
        if path.suffix in (".json", ".safetensors", ".jinja"):
            path.unlink()
    options = LoraConfig(
        r=rank, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, options)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.5)
    adapted.peft_config["default"].base_model_name_or_path = base
    card = (folder / "README.md").read_text()
    adapted.save_pretrained(str(folder))
    (folder / "README.md").write_text(card)
    # The library writes its set of names in another order in each process.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    write_json(path, config | {"target_modules": sorted(config["target_modules"])})
