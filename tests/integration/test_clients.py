"""The clients against the whole stack, through Envoy."""

import json
from pathlib import Path

import pytest

from integration.caller import Account
from integration.pages import ROOT, Block, World
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"

# As in the API reference, except for the model.
PYTHON = """
from lilypad_client import LilypadClient

client = LilypadClient(
    api_key='your-api-key',
    base_url='https://your-domain.com'
)

# Generate module
files = client.generate_module(
    model_url='https://huggingface.co/model-id',
    options={'batchSize': 4}
)

# Monitor metrics
metrics = client.get_metrics(
    model_id='model-id',
    days=30
)

# Run benchmark
results = client.run_benchmark(
    model_id='model-id',
    batch_sizes=[1, 2, 4, 8]
)
"""
JAVASCRIPT = """
import { LilypadClient } from 'lilypad-client';

const client = new LilypadClient({
    apiKey: 'your-api-key',
    baseUrl: 'https://your-domain.com'
});

// Generate module
const files = await client.generateModule({
    modelUrl: 'https://huggingface.co/model-id',
    options: { batchSize: 4 }
});

// Monitor metrics
const metrics = await client.getMetrics({
    modelId: 'model-id',
    days: 30
});

// Run benchmark
const results = await client.runBenchmark({
    modelId: 'model-id',
    batchSizes: [1, 2, 4, 8]
});
"""
JAVASCRIPT_RESULTS = """
console.log(JSON.stringify({ files: files.files, metrics, results }));
"""
PYTHON_RESULTS = """
import json

named = {"files": files, "metrics": metrics.to_dict(), "results": results.to_dict()}
print(json.dumps(named))
"""


# The snippet waits for a real measurement.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("language", "snippet"),
    [
        pytest.param("python", PYTHON + PYTHON_RESULTS, id="python"),
        pytest.param(
            "javascript", JAVASCRIPT + JAVASCRIPT_RESULTS, id="javascript", marks=pytest.mark.long
        ),
    ],
)
def test_the_client_snippets_of_the_reference_run_unchanged(
    stack: Stack, account: Account, tmp_path: Path, language: str, snippet: str
) -> None:
    body = {"modelId": MODEL, "metrics": {"latency": 8.0, "throughput": 120.0}}
    assert account.post("/v1/api/monitor/record", body).status_code == 200
    program = Block(language, snippet.replace("model-id", MODEL), 1)
    named = json.loads(World(stack.url, account, tmp_path).run(program))
    check_results(named)


def test_the_committed_openapi_is_what_the_service_serves(stack: Stack, account: Account) -> None:
    # Except for the service's own address.
    served = json.loads(account.http.get("/openapi.json").text.replace(f"{stack.url}/", "/"))
    committed = json.loads((ROOT / "clients" / "openapi.json").read_text())
    assert {**served, "servers": None} == {**committed, "servers": None}


def check_results(named: dict) -> None:
    """Check the variables of the reference's snippets: `files`, `metrics` and `results`."""
    assert {"Dockerfile", "module.yaml", "run_inference.py"} <= set(named["files"])
    assert named["metrics"]["statistics"]["latency"]["mean"] == 8.0
    assert len(named["results"]["results"]["throughput"]) == 4
    assert named["results"]["analysis"]["optimal_batch_size"] in (1, 2, 4, 8)
