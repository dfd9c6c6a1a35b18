"""Which models the Hub has: one row each.

To add one: write a maker in `families` (or `awkward`) and add a row here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HOSTILE = (  # what a field that goes into a Dockerfile, Python, YAML, HTML or a log may hold
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


@dataclass(frozen=True)
class Model:
    """One repository.

    `maker` names a function as `module:function` and is looked up only where models are made, so
    that the server starts without torch. `branches` maps a branch to its maker's options; each
    branch has its own weights. `card` has the card's metadata over the usual; None leaves a field
    out. `about` is the card's text.
    """

    id: str
    maker: str
    task: str | None
    library: str | None = "transformers"
    card: Mapping[str, Any] = field(default_factory=dict)
    branches: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"main": {}})
    about: str = "A tiny model with random weights."
    former_ids: tuple[str, ...] = ()
    gated: Literal["auto", "manual", False] = False
    private: bool = False
    disabled: bool = False


MODELS = (
    # Good ones.
    Model(
        "lilypad/tiny-text-classification",
        "families:bert_classifier",
        "text-classification",
        branches={"main": {}, "v1": {}},
        former_ids=("frog/tiny-text-classification", "tiny-text-classification"),
    ),
    Model("lilypad/tiny-text-generation", "families:llama_generator", "text-generation"),
    Model("lilypad/tiny-feature-extraction", "families:bert_encoder", "feature-extraction"),
    Model(
        "lilypad/tiny-sentence-similarity",
        "families:sentence_transformer",
        "sentence-similarity",
        library="sentence-transformers",
    ),
    Model("lilypad/tiny-image-classification", "families:vit_classifier", "image-classification"),
    Model("lilypad/tiny-token-classification", "families:bert_tagger", "token-classification"),
    Model("lilypad/tiny-fill-mask", "families:bert_mask_filler", "fill-mask"),
    Model(
        "lilypad/tiny-zero-shot-classification",
        "families:bert_classifier",
        "zero-shot-classification",
        branches={"main": {"labels": ("contradiction", "neutral", "entailment")}},
    ),
    Model(
        "lilypad/tiny-image-feature-extraction", "families:vit_encoder", "image-feature-extraction"
    ),
    Model("lilypad/tiny-object-detection", "families:yolos_detector", "object-detection"),
    # Good ones behind a door.
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
    Model("lilypad/tiny-remote-code", "awkward:remote_code", "text-generation"),
    Model("lilypad/tiny-internal-attention", "awkward:internal_attention", "text-classification"),
    # Ones that leave something out, or that no pipeline of transformers runs.
    Model(
        "lilypad/tiny-no-licence",
        "families:bert_classifier",
        "text-classification",
        card={"license": None},
    ),
    Model("lilypad/tiny-no-task", "families:bert_classifier", None),
    Model("lilypad/tiny-card-only", "awkward:card_only", None, library=None),
    Model(
        "lilypad/tiny-reinforcement-learning",
        "awkward:policy",
        "reinforcement-learning",
        library="stable-baselines3",
    ),
    Model("lilypad/tiny-unknown-task", "families:bert_encoder", "telepathy"),
    Model("lilypad/tiny-gguf", "awkward:gguf_only", "text-generation", library=None),
    # Ones that lie about their size.
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
        "lilypad/too-big",  # 400 GB, and as many files as make the tree two pages long
        "awkward:sharded",
        "text-generation",
        branches={
            "main": {"shards": 80, "shape": (50_000, 50_000)},
            "many-shards": {"shards": 1_500, "shape": (8, 8)},
        },
    ),
    # Hostile ones: each in a single place, so that a refusal of one does not hide the next.
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
