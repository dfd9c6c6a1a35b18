"""The journey from registration to alerts, and every refusal, with both clients.

The codes that a service in order does not answer are the clients' own tests': 5001 and 1005
(a full storage) from a scripted service, 5003 from a proxy.
"""

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from integration.caller import PASSWORD, Account
from integration.pages import NODE, World
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
# Refused for its weights' format.
REFUSED = "lilypad/unwhole-generator"

# Each program prints one object: the result of each step, and the code of each refusal.
PYTHON = """
import json, os
from lilypad_client import LilypadClient, LilypadError

model, refused = os.environ["MODEL"], os.environ["REFUSED"]
account = (os.environ["LILYPAD_EMAIL"], os.environ["LILYPAD_PASSWORD"])
owner = LilypadClient(account=account)
owner.account.register()
client = LilypadClient(owner.keys.create("journey").key, max_retries=0)
narrow = LilypadClient(owner.keys.create("narrow", scopes=["generate"]).key)
revoked = owner.keys.create("revoked")
owner.keys.revoke(revoked.id)
steps, codes = {}, {}

module = client.generate_module(model, options={"batchSize": 4})
steps["files"] = sorted(module)
client.download(model, "module.zip")
steps["archive"] = open("module.zip", "rb").read(2).decode()
client.alerts.rules.add(kind="threshold", model_id="journey", metric="latency", above=500)
client.metrics.record("journey", {"latency": 900.0, "throughput": 1.0}, idempotency_key="first")
client.metrics.record("journey", {"latency": 900.0, "throughput": 1.0}, idempotency_key="first")
latency = client.get_metrics("journey", days=1).statistics["latency"]
steps["latency"] = [latency.count, latency.mean]
updates = client.subscribe_metrics("journey", ["latency"], since="2026-01-01T00:00:00Z")
steps["update"] = next(updates).metrics
updates.close()
steps["alert"] = [alert.type for alert in client.alerts.list(open_only=True)]

job = client.benchmarks.start(model, batch_sizes=[1], iterations=10_000, warmup=1_000)
states = []
for run in job.progress():
    states.append(run.state)
    if run.state == "running":
        job.cancel()
steps["run"] = list(dict.fromkeys(states))
trial = client.modules.start_verification(model)
steps["trial"] = list(dict.fromkeys(one.verification.state for one in trial.progress()))
steps["verdict"] = trial.wait().verification.verdict.verdict


def refuse(name, call):
    try:
        call()
    except LilypadError as error:
        assert error.request_id and error.advice, name
        codes[error.code] = type(error).__name__


def generate_too_often():
    for _ in range(20):
        client.generate_module(model)


refuse("model", lambda: client.generate_module("!"))
refuse("generation", lambda: client.generate_module(refused, revision="mlx"))
refuse("request", lambda: client.get_metrics("journey", days=0))
refuse("benchmark", lambda: client.run_benchmark(model, batch_sizes=[1], input_tokens=100_000))
refuse("key", lambda: LilypadClient(revoked.key).get_metrics("journey"))
refuse("scope", lambda: narrow.get_metrics("journey"))
refuse("nothing", lambda: client.get_metrics("nothing"))
refuse("conflict", lambda: client.metrics.record("j", {"x": 1.0}, idempotency_key="first"))
refuse("limit", generate_too_often)
print(json.dumps({"steps": steps, "codes": codes}))
"""
JAVASCRIPT = """
import { LilypadClient, LilypadError } from 'lilypad-client';
import { subscribeMetrics } from 'lilypad-client/realtime';

const { MODEL: model, REFUSED: refused, LILYPAD_EMAIL, LILYPAD_PASSWORD } = process.env;
const account = { email: LILYPAD_EMAIL, password: LILYPAD_PASSWORD };
const owner = new LilypadClient({ account });
await owner.account.register();
const { key } = await owner.keys.create({ name: 'journey' });
const client = new LilypadClient({ apiKey: key, maxRetries: 0 });
const narrow = await owner.keys.create({ name: 'narrow', scopes: ['generate'] });
const revoked = await owner.keys.create({ name: 'revoked' });
await owner.keys.revoke(revoked.id);
const steps = {};
const codes = {};
const unique = (all) => [...new Set(all)];

const module = await client.generateModule({ modelUrl: model, options: { batchSize: 4 } });
steps.files = Object.keys(module.files).sort();
const archive = await client.download({ modelUrl: model });
steps.archive = Buffer.from(archive).subarray(0, 2).toString();
const rule = { kind: 'threshold', modelId: 'journey', metric: 'latency', above: 500 };
await client.alerts.rules.add(rule);
const record = { modelId: 'journey', metrics: { latency: 900, throughput: 1 } };
await client.metrics.record(record, { idempotencyKey: 'first' });
await client.metrics.record(record, { idempotencyKey: 'first' });
const { latency } = (await client.getMetrics({ modelId: 'journey', days: 1 })).statistics;
steps.latency = [latency.count, latency.mean];
const since = '2026-01-01T00:00:00Z';
const subscription = { modelId: 'journey', metrics: ['latency'], since };
for await (const update of subscribeMetrics(client, subscription)) {
  steps.update = update.metrics;
  break;
}
steps.alert = [];
for await (const alert of client.alerts.list({ openOnly: true })) steps.alert.push(alert.type);

const request = { modelId: model, batchSizes: [1], iterations: 10_000, warmup: 1_000 };
const job = await client.benchmarks.start(request);
const states = [];
for await (const run of job.progress()) {
  states.push(run.state);
  if (run.state === 'running') await job.cancel();
}
steps.run = unique(states);
const trial = await client.modules.startVerification({ modelUrl: model });
const trials = [];
for await (const { verification } of trial.progress()) trials.push(verification.state);
steps.trial = unique(trials);
steps.verdict = (await trial.wait()).verification.verdict.verdict;

async function refuse(name, call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof LilypadError && error.requestId && error.advice)) throw error;
    codes[error.code] = error.name;
  }
}

async function generateTooOften() {
  for (let call = 0; call < 20; call += 1) await client.generateModule({ modelUrl: model });
}

await refuse('model', () => client.generateModule({ modelUrl: '!' }));
await refuse('generation', () => client.generateModule({ modelUrl: refused, revision: 'mlx' }));
await refuse('request', () => client.getMetrics({ modelId: 'journey', days: 0 }));
const long = { modelId: model, batchSizes: [1], inputTokens: 100_000 };
await refuse('benchmark', () => client.runBenchmark(long));
const ended = new LilypadClient({ apiKey: revoked.key });
await refuse('key', () => ended.getMetrics({ modelId: 'journey' }));
const other = new LilypadClient({ apiKey: narrow.key });
await refuse('scope', () => other.getMetrics({ modelId: 'journey' }));
await refuse('nothing', () => client.getMetrics({ modelId: 'nothing' }));
const again = { modelId: 'j', metrics: { x: 1 } };
await refuse('conflict', () => client.metrics.record(again, { idempotencyKey: 'first' }));
await refuse('limit', generateTooOften);
console.log(JSON.stringify({ steps, codes }));
"""
CODES = {
    "1001": "InvalidModelError",
    "1002": "GenerationError",
    "1003": "InvalidRequestError",
    "1004": "BenchmarkError",
    "2001": "AuthenticationError",
    "2002": "RateLimitError",
    "2003": "PermissionDeniedError",
    "3001": "NotFoundError",
    "3002": "ConflictError",
}


# It waits for a worker to run a module.
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("interpreter", "name", "program"),
    [(sys.executable, "journey.py", PYTHON), (NODE, "journey.mjs", JAVASCRIPT)],
    ids=["python", "javascript"],
)
def test_a_client_goes_from_no_account_to_alerts_and_names_each_refusal(
    stack: Stack, account: Account, tmp_path: Path, interpreter: str, name: str, program: str
) -> None:
    world = World(stack.url, account, tmp_path)
    world.provide("lilypad-client")
    (world.folder / name).write_text(program)
    variables = {"MODEL": MODEL, "REFUSED": REFUSED, "LILYPAD_PASSWORD": PASSWORD}
    variables["LILYPAD_EMAIL"] = f"{secrets.token_hex(6)}@example.com"
    done = subprocess.run(
        [interpreter, name],
        env={**world.environment, **variables},
        cwd=world.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    steps = outcome["steps"]
    assert "run_inference.py" in steps["files"]
    assert steps["archive"] == "PK"
    assert steps["latency"] == [1, 900]
    assert steps["update"] == {"latency": 900}
    assert "latency_threshold" in steps["alert"]
    assert steps["run"][-1] == "canceled"
    assert "running" in steps["run"]
    assert steps["trial"][-1] == "succeeded"
    assert steps["verdict"] == "passed"
    assert outcome["codes"] == CODES
