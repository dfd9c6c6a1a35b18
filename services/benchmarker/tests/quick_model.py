"""A fake model that takes no time, instead of a process with torch.

A request's seed chooses its behaviour: SLOW delays each block, POISON kills the worker, TOO_BIG
runs out of memory from size 4 on, STUCK never gives its first answer, DRAINED is killed while its
energy is measured, MOVED is on another machine in each worker and delays each block, BROKEN fails
from size 4 on, and while energy is measured.
"""

import os
import signal
import time

from benchmarker.worker.process import answer_in_forks

SLOW, POISON, TOO_BIG, STUCK, DRAINED, MOVED, BROKEN = 1, 2, 3, 4, 5, 6, 7
# The processes that answer are this one's children.
WORKER = os.getppid()
MACHINE = {"device": "cpu", "name": "none", "cores": 2, "threads": 1, "memory": 1024.0}


class QuickModel:
    def __init__(self) -> None:
        self.seed = 0

    def answer(self, question):
        if "commit" in question:
            return {"folder": "none"}
        if "do" not in question:
            return self.describe()
        return getattr(self, question["do"])(question)

    def describe(self):
        return {"name": "none", "device_class": "cpu", "memory": 24_000.0, "dtypes": ["float32"]}

    def load(self, question):
        self.seed = question["seed"]
        name = f"machine {WORKER}" if self.seed == MOVED else "none"
        return {
            "machine": {**MACHINE, "name": name},
            "dtype": "float32",
            "attention": "sdpa",
            "compiled": False,
            "parameters": 1,
            "weights": 1.0,
            "base": 1.0,
            "input": {"input_ids": [1]},
        }

    def ceilings(self, _):
        return {"bandwidth": 10.0, "compute": 10.0}

    def energy(self, _):
        if self.seed == DRAINED:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.seed == BROKEN:
            return {"failed": "the model failed: no such counter", "reason": "model"}
        return {"missing": "none"}

    def probe(self, question):
        if self.seed == STUCK:
            time.sleep(3600)
        if self.seed == TOO_BIG and question["batchSize"] >= 4:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does
        if self.seed == BROKEN and question["batchSize"] >= 4:
            return {"failed": "the model failed: more than INT_MAX elements", "reason": "model"}
        return {"peakRss": 10.0 + question["batchSize"]}

    def block(self, question):
        if self.seed == POISON:
            os.kill(WORKER, signal.SIGKILL)
        if self.seed in {SLOW, MOVED}:
            time.sleep(0.05)
        batch_size = question["batchSize"]
        wall = [1_000_000 * batch_size + number for number in range(question["calls"])]
        return {"round": question["round"], "batchSize": batch_size, "wall": wall}


if __name__ == "__main__":
    answer_in_forks(lambda: QuickModel().answer)
