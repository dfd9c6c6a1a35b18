"""Published forms of weights and how modules treat each, for the documentation."""

from models.gguf import PREFERRED

# A form, how it is recognised, and what happens.
FORMS = (
    (
        "safetensors",
        "`model.safetensors`, or the shards of its index",
        "loaded in float32 on a processor; on a GPU in half precision",
    ),
    (
        "safetensors beside other forms of the same weights",
        "`pytorch_model.bin`, `tf_model.h5`, `flax_model.msgpack`, `onnx/`, `openvino/` beside it",
        "the safetensors are loaded, and no other file is part of the module",
    ),
    (
        "FP8 with a scale per block, MXFP4, compressed-tensors",
        "`quant_method` `fp8`, `mxfp4` or `compressed-tensors` (FP8, INT8, INT4) in config.json",
        "for text generation, and text about images or sounds: unpacked to the dtypes above",
    ),
    (
        "bitsandbytes, four or eight bits",
        "`quant_method` `bitsandbytes` in config.json",
        "for the same tasks: stays packed, and takes as much memory as its files have bytes",
    ),
    (
        "GPTQ of 2, 4 or 8 bits, AWQ",
        "`quant_method` `gptq` or `awq` (version GEMM) in config.json",
        "for text generation: unpacked by the module when loaded, to the dtypes above",
    ),
    (
        "NVFP4, MLX and all other packed weights",
        "config.json, `quantize_config.json` and others beside it, or the names of tensors",
        "refused as `quantized`; the error names the original model if the card does",
    ),
    (
        "pickles, converted by the Hub",
        "only `pytorch_model.bin`, with a pull request of the Hub's bot for the same bytes",
        "the conversion is loaded, pinned to its commit, with a warning",
    ),
    (
        "pickles of transformers and sentence-transformers, unconverted",
        "`pytorch_model.bin`, or the shards of its index, in either of torch.save's formats",
        "[converted](#pickled-weights) to safetensors when the image is built, with a warning",
    ),
    (
        "all other pickles, without safetensors",
        "`.bin`, `.pt`, `.pth`, `.ckpt` of other names, of diffusers, or with more than tensors",
        "refused as `pickle-only`",
    ),
    (
        "only GGUF files, whole or split",
        "`.gguf`; beside safetensors only with `options.file`",
        (
            "run by llama.cpp on a CPU, in the file's own types, for text generation, text "
            "embeddings and ranking; refused as `gguf-only` for other tasks"
        ),
    ),
    (
        "an adapter of PEFT (LoRA) for text generation",
        "`adapter_config.json` and `adapter_model.safetensors` without the base's weights",
        "merged into its base when loaded; both repositories are pinned, both licences checked",
    ),
    (
        "all other adapters",
        "`adapter_config.json`, a file or tag with `lora`, or the names of its tensors",
        "refused as `adapter`, as is any whose base is packed or in the same repository",
    ),
    (
        (
            "safetensors that no library finds: a diffusion checkpoint in one file, "
            "`consolidated.safetensors`, a variant (`model.fp16.safetensors`), shards without index"
        ),
        "the names of files, and of the tensors in the smallest one",
        "refused as `no-weights` or `incomplete`; the error says which it is",
    ),
    (
        "a part of a diffusers pipeline: ControlNet, autoencoder, denoiser, motion adapter",
        "`_class_name` in config.json, without `model_index.json`",
        "refused as `incomplete`; the error names the base, or a whole pipeline",
    ),
    (
        "Git LFS pointers; repositories without weights, or empty",
        "the first bytes of files; the list of files",
        "refused as `incomplete` (pointers) or `no-weights`",
    ),
    (
        "modules of sentence-transformers",
        "`modules.json`, and `router_config.json` in the folder of a router",
        (
            "all run as published: pooling, layers, prompts, cut vectors, routes, `LogitScore`; "
            "vectors of whole words (`WordEmbeddings`, `BoW`) are refused as `architecture`"
        ),
    ),
    (
        "a SetFit model: a sentence model, and scikit-learn's classifier of its vectors",
        "`config_setfit.json` or the library `setfit`, and `model_head.pkl` beside `modules.json`",
        (
            "a `LogisticRegression` is [converted](#pickled-weights) when the image is built; all "
            "other heads are refused as `pickle-only`, halves of SetFitABSA as `architecture`"
        ),
    ),
    (
        "only ONNX, of a model that embeds, labels or scores texts",
        (
            "`onnx/model.onnx` or `model.onnx` beside a `config.json`; other `.onnx` files, and "
            "those beside other weights, only with `options.file`"
        ),
        ("run by onnxruntime on a CPU, in place of the model's weights: [ONNX files](#onnx-files)"),
    ),
    (
        (
            "only files of OpenVINO, TensorFlow, LiteRT, Flax, Core ML, TensorRT, ExecuTorch, "
            "PaddlePaddle, RKNN, llamafile, GGML, rust-bert, NumPy, scikit-learn (`.joblib`, "
            "`.skops`), NeMo, CTranslate2 or spaCy; all other ONNX"
        ),
        "the files of each",
        "refused as `library`; the error names the format",
    ),
)

ONNX_FILES = """\
### ONNX files

A repository whose weights are an ONNX file gets a module for `sentence-similarity`,
`feature-extraction`, `text-ranking`, `text-classification` or `token-classification`. The model is
loaded by the library that the table above names, with its tokenizer, pooling, prompts and labels,
and onnxruntime runs the file in place of its transformer, in float32, on a CPU.
`options.gpu` and `optimizationLevel` have no effect, and a warning says so.

The file is `onnx/model.onnx`, or else `model.onnx`; `options.file` names another by its path. A
file whose name says that it is quantized (`model_quantized.onnx`, `model_int8.onnx`) runs with a
warning that its answers differ. Files with its tensors (`model.onnx_data`, `model.onnx.data`) are
fetched with it. The generator does not read the file. If it lacks the output that the task needs,
or has inputs that the tokenizer does not provide, the module fails at its first run, with an error
that names them. The number of parameters is estimated from the file's size. Models of ONNX files
are not benchmarked.
"""

PICKLED = """\
### Pickled weights

A pickle is a program, so neither the generator nor a running module executes one. The generator
reads the descriptions of the tensors from the end and the beginning of each file, and interprets
their opcodes on plain values. It refuses a file that names anything but torch's own tensors, or
whose tensors do not fit the file.

The image is built in stages. One fetches the files and compares their digests. Then, in a step
without a network (`RUN --network=none`), `torch.load(weights_only=True)` builds the tensors,
which are written as safetensors, and the pickles are deleted. The image contains what that stage
wrote, and `model/conversion.json` with the digest of each file read and written; the module
compares them with `module.yaml` and with its files at every start. Tensors that share memory are
written once for each name, so they count once for memory and once a name for the disk.

The head of a SetFit model is a pickle of scikit-learn's, which would run whatever it names when
loaded. The generator, and the build of the image, only interpret its opcodes, and accept a
`LogisticRegression` with one label a text, its coefficients, and nothing else. Probabilities are
those of the pinned scikit-learn; a head for which other versions compute different ones is refused.

A worker that [verifies](../how-to/verify.md) the module converts the weights with the module's own
script, in its sandbox, if they take at most 768 MiB; above that the verdict is `not_run`.
Models with pickled weights are not benchmarked."""


def section() -> list[str]:
    """Return the lines of the section on forms of weights."""
    return [
        "## Weights",
        "",
        "| form | recognised by | what happens |",
        "|---|---|---|",
        *(f"| {form} | {sign} | {result} |" for form, sign, result in FORMS),
        "",
        *PICKLED.splitlines(),
        "",
        "### GGUF files",
        "",
        "If a repository has several GGUF files, the module runs the one whose name contains the",
        "first of these packings:",
        f"{', '.join(f'`{name}`' for name in PREFERRED)}.",
        "Among files of the same packing, the shortest path wins; if no name contains a packing,",
        "the smallest file. Files whose names say that they are projectors (`mmproj`), draft",
        "models, adapters or statistics are skipped, and so are split files with a missing part.",
        "`options.file` selects any other file by its path; for a split file, name the first part.",
        "Architecture, sizes and chat template come from the file's header. The context is the",
        "model's own, at most 8,192 tokens. `options.gpu` and `optimizationLevel` have no effect,",
        "and a warning says so: the wheel of llama.cpp that modules install has no CUDA.",
        "A module for a vision-language model accepts only texts, and a warning says so.",
        "",
        "A file is an embedder if its header names a pooling (`mean`, `cls` or `last`), whatever",
        "the card says: it serves `feature-extraction` if the card says so, else",
        "`sentence-similarity`. Vectors are pooled as the header says and normalised to length 1.",
        "No prompt is put before a text, since the format has none, and a warning says so. A text",
        "longer than the context is refused, as llama.cpp does. Encoders without a pooling in",
        "their header are refused as `gguf-only`.",
        "",
        "A file is a ranker if its header names the pooling `rank`. A module is made if llama.cpp",
        "gives the scores of the model's own library: of XLM-RoBERTa (bge-reranker), up to 8,192",
        "tokens, if the header sets `add_bos_token`, `add_eos_token` and `add_sep_token` (older",
        "converters left them out, which changes the scores); and of Qwen3 with its template for",
        "ranking, up to 2,048 tokens, since llama.cpp computes the logits of every token. All",
        "others are refused as `gguf-only`: llama.cpp gives both texts of a BERT the same segment.",
        "",
        *ONNX_FILES.splitlines(),
    ]
