"""Tiny GGUF rankers, with the fields that llama.cpp's converter writes for them."""

import tempfile
from pathlib import Path
from typing import Any

import gguf
import sentencepiece
import torch
import transformers
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

from hub import gguf_encoders
from hub.families import CONTEXT, TINY, write_json
from hub.gguf import CONTROL, NORMAL, finish
from hub.lifelike import pieces

SIZE = 300
UNKNOWN, UNUSED = 2, 5  # types of tokens
# How the query and the text of Qwen3-Reranker become one, shortened.
TEMPLATE = "Judge: {query}|{document}\nmodel:"


def ranker(folder: Path) -> None:
    """Make the GGUF file of `original`."""
    with tempfile.TemporaryDirectory() as beside:
        original(Path(beside))
        xlm_roberta(folder / "tiny-F32.gguf", Path(beside))


def original(folder: Path) -> None:
    """Make a ranker of transformers, an XLM-RoBERTa as bge-reranker is one."""
    torch.manual_seed(14)
    pieces(folder / "sentencepiece.bpe.model")
    write_json(folder / "tokenizer_config.json", {"model_max_length": CONTEXT})
    config = XLMRobertaConfig(
        vocab_size=SIZE,
        max_position_embeddings=CONTEXT + 2,
        type_vocab_size=1,
        num_labels=1,
        initializer_range=0.3,
        **TINY,
    )
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)


def xlm_roberta(path: Path, folder: Path, *, marked: bool = True) -> None:
    """Write the model in `folder`; without the marks of texts, as old converters, if not marked."""
    model = XLMRobertaForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    source = sentencepiece.SentencePieceProcessor(
        model_file=str(folder / "sentencepiece.bpe.model")
    )
    scores = {
        source.id_to_piece(number): source.get_score(number)
        for number in range(source.get_piece_size())
    }
    tokens = gguf_encoders.ordered(tokenizer)
    kinds = dict.fromkeys(tokenizer.all_special_tokens, CONTROL) | {"<unk>": UNKNOWN}
    unused = [f"<unused{number}>" for number in range(SIZE - len(tokens))]
    kinds |= dict.fromkeys(unused, UNUSED)
    model.config.max_position_embeddings -= 2  # of which the first two are for padding
    writer = gguf_encoders.begin(path, "bert", model.config, "rank")
    writer.add_layer_norm_eps(model.config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(1)
    writer.add_token_list(tokens + unused)
    writer.add_token_scores([scores.get(token, 0.0) for token in tokens + unused])
    writer.add_token_types([kinds.get(token, NORMAL) for token in tokens + unused])
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    for name in ("bos", "eos", "sep", "pad", "unk", "mask"):
        add = getattr(writer, f"add_{name}_token_id")
        add(getattr(tokenizer, f"{name}_token_id"))
    for name in ("bos", "eos", "sep") if marked else ():
        writer.add_bool(f"tokenizer.ggml.add_{name}_token", True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        plain = name.removeprefix("roberta.")
        known = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        if known is not None:
            first = 2 * (plain == "embeddings.position_embeddings.weight")
            writer.add_tensor(known, tensor[first:].float().numpy())
    finish(writer)


def qwen3(path: Path, model: Any, answers: list[int]) -> None:
    """Write a Qwen3 that ranks by the chances of two tokens, yes and no."""

    def add(writer: Any) -> None:
        writer.add_string("tokenizer.chat_template.rerank", TEMPLATE)
        writer.add_array("qwen3.classifier.output_labels", ["yes", "no"])
        writer.add_tensor("cls.output.weight", model.lm_head.weight[answers].detach().numpy())

    gguf_encoders.qwen3(path, model, "rank", add)
