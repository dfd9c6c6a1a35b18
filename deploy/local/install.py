"""`pip install` with one line of progress.

    python deploy/local/install.py TITLE ARGUMENTS...

Runs before anything is installed, so with the standard library alone. On a
terminal the line changes as packages arrive; elsewhere it is written once.
pip's output is shown only if it failed.
"""

import re
import shutil
import subprocess
import sys
import time

STEP = re.compile(r"\s*(Collecting|Downloading|Building|Installing) (\S+)")
# Characters of a package's name that are shown, and lines of a failure.
WIDTH, LINES = 30, 40


def main(title: str, arguments: list[str]) -> int:
    shown = sys.stderr.isatty() and shutil.get_terminal_size().columns > 60
    start = time.monotonic()
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    process = subprocess.Popen(
        [*pip, "--progress-bar", "off", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        step = STEP.match(line)
        if shown and step:
            name = step[2].rpartition("/")[2][:WIDTH]
            seconds = time.monotonic() - start
            _show(f"  {title} {seconds:4.0f} s  {step[1].lower()} {name}")
    status = process.wait()
    if shown:
        _show("")
    if status:
        sys.stderr.write("".join(lines[-LINES:]))
        print(f"  {title} failed; pip's last words are above", file=sys.stderr)
    else:
        print(f"  {title} {time.monotonic() - start:.0f} s", file=sys.stderr)
    return status


def _show(text: str) -> None:
    sys.stderr.write(f"\r\x1b[2K{text}")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
