"""A child process whose forks answer, exit, crash or print as the question asks."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarker.worker.process import answer_in_forks

IMPORTED_BY = os.getpid()
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]


def answer(question):
    left = None
    if question.get("leave"):
        left = subprocess.Popen(SLEEP, start_new_session=True).pid
    if "complaint" in question:
        sys.stderr.write(question["complaint"])
        sys.stderr.flush()
    if "signal" in question:
        with Path(f"/proc/{IMPORTED_BY}/fd/1").open("w") as answers:
            answers.write('{"unfinished": "')
        os.kill(os.getpid(), question["signal"])
    if "print" in question:
        with Path(f"/proc/{IMPORTED_BY}/fd/1").open("w") as answers:
            answers.write(question["print"] + "\n")
    if "exit" in question:
        os._exit(question["exit"])
    return {"process": os.getpid(), "importedBy": IMPORTED_BY, "left": left}


if __name__ == "__main__":
    answer_in_forks(lambda: answer)
