"""Models that are gated, private, unsafe, incomplete, unusual or hostile: one row each."""

from hub.model import Model

HOSTILE = (  # text with a meaning in a Dockerfile, Python, YAML, HTML or a log
    "line\nRUN id",
    "carriage\r\nreturn",
    "quotes \" '",
    "triple \"\"\" '''",
    "{{7*7}}",
    "${jndi:ldap://example.invalid/a}",
    "`id` $(id)",
    "separator\u2028next",
    "turned\u202eround",
    "back\\slash\\",
    "%s {0} #{7*7}",
    "<img src=x onerror=alert(1)>",
    "--flag",
    "../../outside",
)
BERT, LLAMA = "families:bert_classifier", "families:llama_generator"

MISFITS = (
    # Good ones that are gated or private.
    Model("lilypad/tiny-gated", "families:bert_classifier", "text-classification", gated="manual"),
    Model("lilypad/tiny-private", "families:bert_classifier", "text-classification", private=True),
    Model(
        "lilypad/tiny-disabled", "families:bert_classifier", "text-classification", disabled=True
    ),
    # Unsafe ones.
    Model("lilypad/tiny-pickle", "awkward:pickle_only", "text-classification"),
    Model(
        "lilypad/tiny-malicious-pickle",
        "awkward:pickle_only",
        "text-classification",
        branches={"main": {"malicious": True}},
    ),
    # Ones with pickled weights, as the libraries wrote them until 2023.
    Model(
        "lilypad/pickled",
        "awkward:pickled",
        "text-classification",
        branches={"main": {"maker": BERT}, "sharded": {"maker": BERT, "shards": 2}},
    ),
    Model(
        "lilypad/pickled-tied",
        "awkward:pickled",
        "translation",
        branches={
            "main": {"maker": "lifelike:t5"},
            "first": {"maker": "lifelike:t5", "is_first": True},
        },
    ),
    Model(
        "lilypad/pickled-sentences",
        "awkward:pickled",
        "feature-extraction",
        library="sentence-transformers",
        branches={"main": {"maker": "sentences:make", "kind": "projected"}},
    ),
    Model("lilypad/tiny-remote-code", "awkward:remote_code", "text-generation"),
    Model("lilypad/tiny-internal-attention", "awkward:internal_attention", "text-classification"),
    # Ones that lack something essential: a branch for each.
    Model(
        "lilypad/unwhole-classifier",
        "awkward:altered",
        "text-classification",
        branches={
            "no-vocabulary": {"maker": BERT, "without": ["tokenizer.json"]},
            "no-tokenizer": {"maker": BERT, "without": ["tokenizer*"]},
            "headless": {"maker": BERT, "weights": "headless"},
            "wrapped": {"maker": BERT, "weights": "wrapped"},
            "japanese": {
                "maker": BERT,
                "edits": {
                    "tokenizer_config.json": {
                        "tokenizer_class": "BertJapaneseTokenizer",
                        "word_tokenizer_type": "mecab",
                    },
                    "vocab.txt": {},
                },
            },
        },
    ),
    Model(
        "lilypad/unwhole-generator",
        "awkward:altered",
        "text-generation",
        branches={
            "gptq": {"maker": LLAMA, "weights": "packed"},
            "gptq-config": {"maker": LLAMA, "edits": {"quantize_config.json": {"bits": 4}}},
            "mlx": {"maker": LLAMA, "edits": {"config.json": {"quantization": {"bits": 4}}}},
            "float8": {"maker": LLAMA, "weights": "eighth"},
            "no-index": {"maker": "lifelike:llama", "without": ["*.index.json"]},
            "shard-missing": {"maker": "lifelike:llama", "without": ["*1-of-000002*"]},
            "tekken": {
                "maker": LLAMA,
                "without": ["tokenizer*"],
                "edits": {"tekken.json": {"vocab": []}},
            },
        },
    ),
    Model(
        "lilypad/unwhole-speaker",
        "awkward:altered",
        "text-to-speech",
        branches={
            "main": {
                "maker": "sounds:speaker",
                "edits": {"tokenizer_config.json": {"phonemize": True}},
            }
        },
    ),
    Model(
        "lilypad/unwhole-pictures",
        "awkward:altered",
        "image-classification",
        branches={
            "main": {"maker": "families:vit_classifier", "without": ["preprocessor_config.json"]}
        },
    ),
    Model(
        "lilypad/unwhole-painter",
        "awkward:altered",
        "text-to-image",
        library="diffusers",
        branches={
            "half": {
                "maker": "lifelike:stable_diffusion",
                "without": ["unet/diffusion_pytorch_model.safetensors"],
            },
            "no-vocabulary": {
                "maker": "lifelike:stable_diffusion",
                "without": ["tokenizer/vocab.json"],
            },
        },
    ),
    # Ones that omit something, or that no pipeline of transformers runs.
    Model(
        "lilypad/tiny-no-licence",
        "families:bert_classifier",
        "text-classification",
        card={"license": None},
    ),
    Model("lilypad/tiny-no-task", "families:bert_classifier", None),
    Model("lilypad/tiny-card-only", "weightless:card_only", None, library=None),
    Model(
        "lilypad/tiny-reinforcement-learning",
        "weightless:policy",
        "reinforcement-learning",
        library="stable-baselines3",
    ),
    Model("lilypad/tiny-unknown-task", "families:bert_encoder", "telepathy"),
    Model("lilypad/encoder-gguf", "weightless:gguf_encoder", "sentence-similarity", library=None),
    # Ones with false sizes.
    Model(
        "lilypad/tiny-lying-header",
        "awkward:lying_header",
        "text-classification",
        branches={
            "main": {"lie": "huge"},
            "past-the-end": {"lie": "past-the-end"},
            "not-json": {"lie": "not-json"},
            "absurd": {"lie": "absurd"},
        },
    ),
    Model(
        "lilypad/too-big",  # 400 GB, and enough files for a tree of two pages
        "awkward:sharded",
        "text-generation",
        branches={
            "main": {"shards": 80, "shape": (50_000, 50_000)},
            "many-shards": {"shards": 1_500, "shape": (8, 8)},
        },
    ),
    # Hostile ones: each in a single field, so that a refusal of one does not hide the next.
    Model(
        "lilypad/tiny-hostile-task",
        "families:bert_classifier",
        'text-classification"\nRUN id #{{7*7}}',
    ),
    Model(
        "lilypad/tiny-hostile-card",
        "families:bert_classifier",
        "text-classification",
        card={
            "license": " ".join(HOSTILE),
            "license_name": HOSTILE[0],
            "license_link": "javascript:alert(1)",
            "tags": list(HOSTILE),
            "language": [HOSTILE[0]],
            "base_model": HOSTILE[4],
        },
        about="<img src=x onerror=alert(1)>\n\n[click](javascript:alert(1))\n\n{{7*7}}",
    ),
    Model(
        "lilypad/tiny-hostile-names",
        "awkward:hostile_names",
        "text-classification",
        branches={"main": {"labels": HOSTILE, "names": HOSTILE}},
    ),
    Model(
        "lilypad/tiny-hostile-config",
        "awkward:hostile_config",
        "text-classification",
        branches={"main": {"architectures": [HOSTILE[0]], "model_type": HOSTILE[4]}},
    ),
)
