"""Modules of SetFit models answer like SetFit, and its pickled heads are read without being run."""

import io
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from common.contracts.generation import GenerateRequest
from common.errors import ModelRefused
from generator import setfit
from generator.handlers import Handlers
from generator.script import check
from hub.catalogue import MODELS
from hub.making import make_missing
from hub.testing import RunningHub, default_models_dir

sys.path.insert(0, str(Path(__file__).parent))
from modules import Built, build

TEXTS = ["a frog on the pond", "the film was terrible and sad", "never", "good film " * 40]
NAME = "lilypad/tiny-setfit"
VECTORS = np.random.default_rng(7).normal(size=(40, 8)).astype(np.float32)
THREE = np.arange(40) % 3


def published(branch: str) -> Path:
    model = next(model for model in MODELS if model.id == NAME)
    return make_missing([model], default_models_dir())[NAME] / branch


@pytest.mark.parametrize("branch", ["main", "pair"])
async def test_a_setfit_module_answers_like_scikit_learn_on_the_librarys_vectors(
    branch: str, handlers: Handlers, hub: RunningHub, tmp_path: Path
) -> None:
    generated = await handlers.generate(GenerateRequest(model_url=NAME, revision=branch))
    [warning] = [text for text in generated.validation.errors if "scikit-learn" in text]
    assert "runs nothing of it" in warning
    module = build(generated.files, tmp_path / "module", fetched=False)
    module.fetch_here(hub.url)
    module.script()["convert"](module.manifest, module.app / "model")
    assert not list((module.app / "model").glob("*.pkl"))
    folder = published(branch)
    head = joblib.load(folder / "model_head.pkl")
    body = SentenceTransformer(str(folder), device="cpu")
    weights = sum(weight.numel() for weight in body.state_dict().values())
    assert module.manifest["model"]["parameters"] == weights + head.coef_.size + len(
        head.intercept_
    )
    vectors = body.encode(TEXTS, normalize_embeddings=branch == "main")
    labels = ["no", "maybe", "yes"] if branch == "main" else head.classes_.tolist()
    manifest = module.script()["converted"](module.manifest, module.app / "model")
    files = {**module.files, "module.yaml": json.dumps(manifest)}
    code, result = Built(module.app, files, module.environment, module.entrypoint).run_here(
        {"inputs": TEXTS}
    )
    assert code == 0, result
    for answer, row in zip(result["outputs"], head.predict_proba(vectors).tolist(), strict=True):
        scores = {one["label"]: one["score"] for one in answer}
        assert scores == pytest.approx(dict(zip(labels, row, strict=True)), abs=1e-6)
        assert answer == sorted(answer, key=lambda one: -one["score"])


async def test_a_setfit_model_with_another_head_is_refused(handlers: Handlers) -> None:
    message = "not a plain logistic regression .* what would help: .* LogisticRegression, SetFit's"
    with pytest.raises(ModelRefused, match=message):
        await handlers.generate(GenerateRequest(model_url=NAME, revision="one-vs-rest"))


def dumped(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file, **options)
    return file.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_head_is_read_as_scikit_learn_loads_it(protocol: int, dtype: str) -> None:
    model = LogisticRegression(C=np.float64(2), class_weight="balanced", random_state=3)
    model.fit(VECTORS.astype(dtype), THREE)
    read = setfit.read_head(dumped(model, protocol=protocol))
    assert read["classes"] == [0, 1, 2]
    for name in ("coef", "intercept"):
        array = read[name]
        numbers = np.frombuffer(array.data, array.dtype).reshape(array.shape, order=array.order)
        assert np.array_equal(numbers, getattr(model, f"{name}_"))


class Payload:
    """A value whose pickle runs a command."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.place}",)


def test_a_head_that_is_anything_else_is_refused_and_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    good = LogisticRegression().fit(VECTORS, THREE)
    content = dumped(good)
    with_trap = LogisticRegression().fit(VECTORS, THREE)
    with_trap.random_state = Payload(trap)
    objects = LogisticRegression().fit(VECTORS, THREE)
    objects.classes_ = np.array([1, "b", Payload(trap)], dtype=object)
    narrow = LogisticRegression().fit(VECTORS, THREE)
    narrow.coef_ = narrow.coef_[:2]
    named = LogisticRegression().fit(VECTORS, np.array(["no", "or", "so"])[THREE])
    doubled = LogisticRegression().fit(VECTORS, THREE % 2)
    doubled.multi_class = "multinomial"
    hostile = [
        dumped(with_trap),
        dumped(objects),
        dumped(narrow),
        dumped(doubled),
        dumped(LogisticRegression()),
        dumped(OneVsRestClassifier(LogisticRegression()).fit(VECTORS, THREE)),
        dumped({"coef_": VECTORS}),
        dumped(good, compress=3),
        *(pickle.dumps(Payload(trap), protocol) for protocol in (0, 2, 4)),
        dumped(named).replace("so".encode("utf-32-le"), b"\xff" * 8),
        content.replace(b"\x02i8", b"\x03i24"),
        b"",
        content[:-1],
        content[: len(content) // 2],
        b"\x80\x04" + b"(" * 6000 + b".",
        b"\x80\x04" + b"\x8d" + b"\xff" * 8,
        # A name that is a pair of pairs of pairs, each twice the same: too many to look up.
        b"\x80\x04)\x94" + b"".join(b"h%ch%c\x86\x94" % (n, n) for n in range(80)) + b"N\x93.",
    ]
    for one in hostile:
        with pytest.raises(ModelRefused) as caught:
            setfit.read_model_head(one)
        assert caught.value.details["reason"] == "pickle-only"
    assert not trap.exists()


def test_settings_that_modules_do_not_follow_are_refused() -> None:
    head = setfit.read_model_head(dumped(LogisticRegression().fit(VECTORS, THREE)))
    few = setfit.read_settings(b'{"labels": ["no", "yes"], "normalize_embeddings": false}')
    with pytest.raises(ModelRefused, match="fewer labels"):
        setfit.facts(head, few)
    with pytest.raises(ModelRefused, match="SetFitABSA"):
        setfit.read_settings(b'{"span_context": 3}')
    for content in (b"[]", b"{", b'{"labels": 7}'):
        with pytest.raises(ModelRefused, match="cannot be read"):
            setfit.read_settings(content)
    with pytest.raises(ModelRefused, match=r"lacks model_head\.pkl"):
        setfit.check(frozenset(("setfit",)), {})


def test_a_module_may_read_opcodes_but_not_unpickle() -> None:
    program = "import {}\ndef answer(): pass\ndef load(): pass\ndef main(): pass\ndef run(): pass\n"
    assert check(program.format("pickletools"), "")
    with pytest.raises(ValueError, match="imports pickle"):
        check(program.format("pickle"), "")
