"""Makers of small models with exactly the files that real repositories have.

Saving a tokenizer or a config with today's library writes what older repositories lack: a
tokenizer.json beside every vocabulary, each size that is the library's default. Here they are left
out, as most of the Hub leaves them out.
"""

import io
import json
import re
from pathlib import Path
from typing import Any

import sentencepiece
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertForTokenClassification,
    BioGptConfig,
    BioGptForCausalLM,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from hub.families import CONTEXT, TINY, WORDS, byte_pair_tokenizer, sentence_transformer, write_json
from hub.media import labelled
from hub.pipelines import stable_diffusion as whole_stable_diffusion

WRITES: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "init_std": 0.5,  # so large that the input makes a difference to the output
}
WEIGHTS = "model.safetensors"


def deberta(folder: Path) -> None:
    """Make a DeBERTa v3 whose only vocabulary is spm.model."""
    pieces(folder / "spm.model", pad_id=0, bos_id=1, eos_id=2, unk_id=3)
    tokenizer(folder, "DebertaV2Tokenizer", do_lower_case=False, vocab_type="spm")
    config = DebertaV2Config(
        vocab_size=300,
        max_position_embeddings=CONTEXT,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        **TINY,
        **labelled("NEGATIVE", "POSITIVE"),
    )
    DebertaV2ForSequenceClassification(config).save_pretrained(folder)


def xlm_roberta(folder: Path) -> None:
    """Make an XLM-RoBERTa whose mask token, <mask>, is in none of its files."""
    pieces(folder / "sentencepiece.bpe.model")
    write_json(folder / "tokenizer_config.json", {"model_max_length": CONTEXT})
    config = XLMRobertaConfig(vocab_size=300, max_position_embeddings=CONTEXT + 2, **TINY)
    XLMRobertaForMaskedLM(config).save_pretrained(folder)


def albert(folder: Path) -> None:
    marks = ["[CLS]", "[SEP]", "[MASK]"]
    pieces(folder / "spiece.model", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=marks)
    tokenizer(folder, "AlbertTokenizer")
    config = AlbertConfig(
        vocab_size=300,
        embedding_size=32,
        max_position_embeddings=CONTEXT,
        **TINY,
        **labelled("O", "B-FROG", "I-FROG"),
    )
    AlbertForTokenClassification(config).save_pretrained(folder)


def llama(folder: Path) -> None:
    """Make a Llama with tokenizer.model, six-digit shard numbers, and one stale shard."""
    pieces(folder / "tokenizer.model", model_type="bpe", byte_fallback=True, vocab_size=500)
    tokenizer(folder, "LlamaTokenizer", add_bos_token=True)
    LlamaForCausalLM(LlamaConfig(vocab_size=500, **TINY)).save_pretrained(folder)
    shards(folder, count=2, digits=6)
    (folder / "model-00001-of-00003.safetensors").write_bytes(
        (folder / "model-00001-of-000002.safetensors").read_bytes()
    )


def t5(folder: Path) -> None:
    pieces(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer(folder, "T5Tokenizer", extra_ids=0)
    config = T5Config(
        vocab_size=len(parts(folder / "spiece.model")) + 3,
        d_model=64,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        initializer_factor=5.0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)


def marian(folder: Path) -> None:
    """Make an OPUS-MT: a shared vocabulary, and a SentencePiece model per language."""
    for name in ("source.spm", "target.spm"):
        pieces(folder / name)
    vocabulary = {**words("</s>", "<unk>", *parts(folder / "source.spm"), "<pad>")}
    write_json(folder / "vocab.json", vocabulary)
    tokenizer(folder, "MarianTokenizer", source_lang="en", target_lang="de")
    config = MarianConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=CONTEXT,
        eos_token_id=0,
        pad_token_id=vocabulary["<pad>"],
        decoder_start_token_id=vocabulary["<pad>"],
        **WRITES,
    )
    MarianMTModel(config).save_pretrained(folder)


def biogpt(folder: Path) -> None:
    """Make a BioGPT, whose words are split as in the Moses toolkit."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    ends = [f"{letter}</w>" for letter in letters]
    vocabulary = words("<s>", "<pad>", "</s>", "<unk>", *ends, *letters)
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\nf r\n")
    config = BioGptConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=2 * CONTEXT,
        scale_embedding=False,
        **TINY,
    )
    BioGptForCausalLM(config).save_pretrained(folder)


def whisper(folder: Path) -> None:
    """Make a Whisper with a vocabulary of letters and the special tokens around a text."""
    vocabulary = byte_pair_tokenizer().get_vocab()
    known = {piece: vocabulary[piece] for piece in sorted(vocabulary, key=vocabulary.__getitem__)}
    write_json(folder / "vocab.json", known)
    (folder / "merges.txt").write_text("#version: 0.2\nf r\n")
    end, start = "<|endoftext|>", "<|startoftranscript|>"
    marks = [end, start, "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    added = {mark: number for number, mark in enumerate(marks, start=len(known))}
    write_json(folder / "added_tokens.json", added)
    ends = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), end)
    tokenizer(folder, "WhisperTokenizer", additional_special_tokens=marks, **ends)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    config = WhisperConfig(
        vocab_size=len(known) + len(marks),
        num_mel_bins=80,
        begin_suppress_tokens=list(added.values()),
        decoder_start_token_id=added[start],
        **{f"{name}_id": added[end] for name in ("bos_token", "eos_token", "pad_token")},
        **WRITES,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)


def sentence_bert(folder: Path) -> None:
    """Make a sentence transformer whose only vocabulary is vocab.txt."""
    sentence_transformer(folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))


def stable_diffusion(folder: Path) -> None:
    """Make a Stable Diffusion with a second set of weights in half precision."""
    whole_stable_diffusion(folder)
    model = json.loads((folder / "tokenizer/tokenizer.json").read_text())["model"]
    (folder / "tokenizer/tokenizer.json").unlink()
    write_json(folder / "tokenizer/vocab.json", model["vocab"])
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    for path in list(folder.glob("*/*.safetensors")):
        path.with_suffix(".fp16.safetensors").write_bytes(path.read_bytes())


def shards(folder: Path, count: int, digits: int = 5) -> None:
    """Split the weights into several files, with an index of them."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    places: dict[str, str] = {}
    for number in range(count):
        file = f"model-{number + 1:05d}-of-{count:0{digits}d}.safetensors"
        part = {name: weights[name] for name in names[number::count]}
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    write_json(folder / f"{WEIGHTS}.index.json", index)


def pieces(path: Path, **options: Any) -> None:
    """Train a SentencePiece model on the few words that all models here know."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 20),
        model_writer=file,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **{"vocab_size": 300, **options},
    )
    path.write_bytes(file.getvalue())


def parts(path: Path) -> list[str]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    vocabulary = [model.id_to_piece(number) for number in range(model.get_piece_size())]
    return [piece for piece in vocabulary if not re.fullmatch("<.*>", piece)]


def words(*names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def tokenizer(folder: Path, kind: str, **fields: Any) -> None:
    known = {"tokenizer_class": kind, "model_max_length": CONTEXT, **fields}
    write_json(folder / "tokenizer_config.json", known)
