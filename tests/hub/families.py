"""Makers of small working models, one function per architecture family.

A maker fills a folder with what its family's authors would push: config, safetensors weights,
tokenizer or processor. The weights are random, drawn after the caller has seeded torch, so the
same seed gives the same bytes.
"""

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
    GenerationConfig,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

WORDS = """
    the a an and or not it is was this that i you we they he she film movie frog pond lily pad
    model network good bad great awful love hate happy sad like loved hated wonderful terrible
    very really never always what who where when how why question answer world hello today
""".split()  # noqa: SIM905 - prose is easier to read than sixty quoted words

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
CONTEXT = 128  # tokens that a tiny text model reads


def bert_classifier(folder: Path, labels: Sequence[str] = ("NEGATIVE", "POSITIVE")) -> None:
    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    config = bert_config(len(tokenizer), id2label=dict(enumerate(labels)))
    config.label2id = {label: number for number, label in enumerate(labels)}
    BertForSequenceClassification(config).save_pretrained(folder)


def bert_tagger(folder: Path, labels: Sequence[str] = ("O", "B-FROG", "I-FROG")) -> None:
    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    config = bert_config(len(tokenizer), id2label=dict(enumerate(labels)))
    config.label2id = {label: number for number, label in enumerate(labels)}
    BertForTokenClassification(config).save_pretrained(folder)


def bert_mask_filler(folder: Path) -> None:
    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    BertForMaskedLM(bert_config(len(tokenizer))).save_pretrained(folder)


def bert_encoder(folder: Path) -> None:
    tokenizer = word_piece_tokenizer()
    tokenizer.save_pretrained(folder)
    BertModel(bert_config(len(tokenizer))).save_pretrained(folder)


def sentence_transformer(folder: Path) -> None:
    """Make a BERT encoder in the layout of sentence-transformers, with mean pooling."""
    bert_encoder(folder)
    modules = [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
        ("2_Normalize", "sentence_transformers.models.Normalize"),
    ]
    write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": kind}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    write_json(
        folder / "1_Pooling/config.json",
        {
            "word_embedding_dimension": TINY["hidden_size"],
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": CONTEXT, "do_lower_case": False}
    )
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})


def llama_generator(folder: Path) -> None:
    tokenizer = byte_pair_tokenizer()
    tokenizer.save_pretrained(folder)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=2 * CONTEXT,
        num_key_value_heads=2,
        **TINY,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**special, max_new_tokens=16)
    model.save_pretrained(folder)


def vit_classifier(folder: Path, labels: Sequence[str] = ("frog", "lily pad", "pond")) -> None:
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **TINY,
    )
    ViTForImageClassification(config).save_pretrained(folder)


def vit_encoder(folder: Path) -> None:
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    ViTModel(ViTConfig(image_size=32, patch_size=8, **TINY)).save_pretrained(folder)


def yolos_detector(folder: Path, labels: Sequence[str] = ("frog", "lily pad")) -> None:
    YolosImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    config = YolosConfig(
        image_size=[32, 32],
        patch_size=8,
        num_detection_tokens=5,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **TINY,
    )
    YolosForObjectDetection(config).save_pretrained(folder)


def bert_config(vocabulary: int, **more: Any) -> BertConfig:
    return BertConfig(vocab_size=vocabulary, max_position_embeddings=CONTEXT, **TINY, **more)


def word_piece_tokenizer() -> BertTokenizer:
    """Make a tokenizer for any printable ASCII: known words whole, the rest letter by letter."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = list(string.ascii_lowercase + string.digits)
    pieces = [
        *special,
        *letters,
        *(f"##{letter}" for letter in letters),
        *string.punctuation,
        *WORDS,
    ]
    unique = dict.fromkeys(pieces)
    return BertTokenizer(
        vocab={piece: number for number, piece in enumerate(unique)}, model_max_length=CONTEXT
    )


def byte_pair_tokenizer() -> GPT2Tokenizer:
    """Make a tokenizer for any text: all 256 bytes, and merges that build the known words."""
    special = ["<s>", "</s>", "<pad>"]
    merges = dict.fromkeys(
        (piece[:end], piece[end])
        for word in WORDS
        for piece in (word, f"Ġ{word}")  # Ġ is the space in front of a word
        for end in range(1, len(piece))
    )
    pieces = dict.fromkeys([*special, *bytes_to_unicode().values(), *map("".join, merges)])
    tokenizer = GPT2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=list(merges),
        unk_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=2 * CONTEXT,
    )
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return tokenizer


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
