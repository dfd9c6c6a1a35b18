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
        "for the same tasks: stays packed, and takes the memory of its files",
    ),
    (
        "GPTQ of 2, 4 or 8 bits, AWQ",
        "`quant_method` `gptq` or `awq` (version GEMM) in config.json",
        "for text generation: multiplied out by the module when loaded, in the dtypes above",
    ),
    (
        "NVFP4, MLX and all other packed weights",
        "config.json, `quantize_config.json` and others beside it, or the names of tensors",
        "refused as `quantized`, with the model that it was made from where its card names one",
    ),
    (
        "pickles, converted by the Hub",
        "`pytorch_model.bin` alone, and a pull request of the Hub's own robot for the same bytes",
        "the conversion is loaded, pinned to its commit, with a warning",
    ),
    (
        "pickles of transformers and sentence-transformers, unconverted",
        "`pytorch_model.bin`, or the shards of its index, as torch has written them since 2020",
        "[converted](#pickled-weights) to safetensors when the image is built, with a warning",
    ),
    (
        "all other pickles alone",
        "`.bin`, `.pt`, `.pth`, `.ckpt` of other names, of diffusers, or with more than tensors",
        "refused as `pickle-only`",
    ),
    (
        "GGUF alone, also in several parts",
        "`.gguf`; beside safetensors only with `options.file`",
        (
            "run by llama.cpp on a processor, in the types of the file: text generation, and "
            "vectors of texts; for other tasks refused as `gguf-only`"
        ),
    ),
    (
        "an adapter of PEFT (LoRA) for text generation",
        "`adapter_config.json` and `adapter_model.safetensors` without the base's weights",
        "merged into its base when loaded; both repositories are pinned, and both licences judged",
    ),
    (
        "all other adapters",
        "`adapter_config.json`, a file or tag with `lora`",
        "refused as `adapter`, also where the base is packed or its weights lie beside it",
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
        "ONNX alone, of vectors, labels or scores of texts",
        (
            "`onnx/model.onnx` or `model.onnx` beside a `config.json`; other `.onnx` files, and "
            "those beside other weights, only with `options.file`"
        ),
        (
            "run by onnxruntime on a processor, in place of the model's weights: "
            "[ONNX files](#onnx-files)"
        ),
    ),
    (
        "all other ONNX; OpenVINO, TensorFlow, Flax, NeMo, CTranslate2 or spaCy alone",
        "the files of each",
        "refused as `library`, named as what it is",
    ),
)

ONNX_FILES = """\
### ONNX files

A repository whose weights are an ONNX file gets a module for `sentence-similarity`,
`feature-extraction`, `text-ranking`, `text-classification` or `token-classification`. The model is
loaded by the library that the table above names, with its tokenizer, pooling, prompts and labels,
and onnxruntime computes the file in place of its transformer, in float32, on a processor.
`options.gpu` and `optimizationLevel` have no effect, and a warning says so.

The file is `onnx/model.onnx`, else `model.onnx`; `options.file` names any other by its path. One
that is quantized by its name (`model_quantized.onnx`, `model_int8.onnx`) runs with a warning that
its answers differ. Files with its numbers (`model.onnx_data`, `model.onnx.data`) come with it.
The generator does not read the file: one without the output that the task needs, or with inputs
that the tokenizer does not give, fails when the module first runs, with an error that names them.
Its parameters are counted by the file's size. Models of ONNX files are not benchmarked.
"""

PICKLED = """\
### Pickled weights

A pickle is a program, so none is run by the generator, nor when a module runs. The generator
reads the descriptions of the tensors from the end and the beginning of each file, follows their
opcodes on plain values, and refuses a file that names anything else than torch's own tensors, or
whose tensors do not fit the file.

The image is built in stages: one fetches the files and compares their digests; then, in a step
without a network (`RUN --network=none`), `torch.load(weights_only=True)` builds the tensors,
which are written as safetensors, and the pickles are deleted. The image has what that stage has
written, and `model/conversion.json`, the digests of each file that was read and written; the
module compares them with `module.yaml` and with its files at every start. Names that share
numbers are written with their own copy: memory counts them once, disk each.

The head of a SetFit model is a pickle of scikit-learn's, whose own loader runs what it names. It
is read by its opcodes alone, by the generator and when the image is built: a `LogisticRegression`
with a label for each text, its coefficients, and nothing else. Probabilities are those of the
pinned scikit-learn; a head to which others of its versions give other ones is refused.

A worker that [verifies](../how-to/verify.md) the module converts the weights in the same way, by
the module's own script, in its sandbox, up to 768 MiB; above that the verdict is `not_run`.
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
        "Of several GGUF files a module has the one whose name has the first of these packings:",
        f"{', '.join(f'`{name}`' for name in PREFERRED)}.",
        "Of two of one packing it is the one with the shorter path; where no file is named so, the",
        "smallest. Projectors (`mmproj`), draft models, adapters and statistics do not count, by",
        "their names, nor does a file of which a part is missing. `options.file` names another, by",
        "its path, whatever it is called; of one in several parts, the first.",
        "Architecture, sizes and chat template are those of the file's header. The context is the",
        "model's own, at most 8,192 tokens. `options.gpu` and `optimizationLevel` have no effect,",
        "and a warning says so: the wheel of llama.cpp that modules install has no CUDA.",
        "Of a model for images and text the module takes texts alone, and a warning says so.",
        "",
        "A file is an embedder if its header names a pooling (`mean`, `cls` or `last`), whatever",
        "the card says: `sentence-similarity`, or `feature-extraction` where the card says that.",
        "Its vectors are pooled in that way, and have the length 1. No prompt is put before a",
        "text, since the format has none, and a warning says so. A text longer than the context is",
        "refused, as by llama.cpp. Encoders without a pooling in their header, and rankers, are",
        "refused as `gguf-only`.",
        "",
        *ONNX_FILES.splitlines(),
    ]
