"""Time and memory until the first training step, by number of rows.

`python -m benchmarks.rows --rows 10000 100000 1000000`


Writes files of rows (about 300 bytes each, all different, made from sentences of the built-in corpus), then trains
`builtin:tiny` on each of them for one step in a process of its own. Prints CPU seconds, wall seconds and memory of the
first run, which makes the cache of rows, and of a second run, which reads it. `--cache off` keeps rows in memory. CPU
seconds are those of all processes.

Memory is the peak of the training process: `anonymous` is what it allocated; `resident` also counts pages of mapped
files, which the system can drop at any time and which processes share.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from robustlm.sources.loading import load

METHODS = {
    "plain": ["--model=InstructionTuning", "--data=InstructionDataModule"],
    "anit": ["--model=ANIT", "--data=NoisyInstructionDataModule"],
    "coin": ["--model=ContrastiveTuning", "--data=ContrastiveDataModule"],
}
"""What each method adds to the command."""
_ASKED = (
    "Summarise the notes below in one sentence.",
    "List the people and places that the text mentions.",
    "Say whether the mood of the text is good or bad.",
    "Rewrite the text for a reader who is in a hurry.",
)


def write_rows(path: Path, count: int) -> None:
    """Write rows of about 300 bytes, each with an input of its own, a target and a second phrasing."""
    draw = random.Random(0)
    samples = load("builtin:quickstart", "train")
    texts, targets = [one.context.text for one in samples], [one.target for one in samples]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            asked = draw.choice(_ASKED)
            text = f"Note {number}: {draw.choice(texts)}"
            row = {"instruction": asked, "text": text, "target": draw.choice(targets), "variant": f"Please: {asked}"}
            file.write(json.dumps(row) + "\n")


class Measured:
    """A command that was run, with its peak memory in bytes and its time in seconds.

    Args:
        command: The command and its arguments.
        log: File for its output.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self.anonymous = self.resident = 0
        start = time.perf_counter()
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            watch = threading.Thread(target=self._watch)
            watch.start()
            _, status, used = os.wait4(self._process.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            watch.join()
        self.wall = time.perf_counter() - start
        self.cpu = used.ru_utime + used.ru_stime
        if self._process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {self._process.returncode}:\n{log.read_text()[-3000:]}")

    def _watch(self) -> None:
        place = Path(f"/proc/{self._process.pid}/status")
        while self._process.returncode is None:
            try:
                lines = dict(line.split(":", 1) for line in place.read_text().splitlines())
                self.anonymous = max(self.anonymous, 1024 * int(lines["RssAnon"].split()[0]))
                self.resident = max(self.resident, 1024 * int(lines["VmHWM"].split()[0]))
            except (OSError, KeyError):
                pass
            time.sleep(0.02)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of rows")
    parser.add_argument("--method", choices=METHODS, default="anit")
    parser.add_argument("--cache", choices=("on", "off"), default="on", help="off: all rows stay in memory")
    parser.add_argument("--folder", help="where rows and caches are written; by default a temporary folder")
    parser.add_argument("more", nargs="*", help="further settings of `robustlm fit`")
    args = parser.parse_args()
    print(f"{'rows':>9} {'MB':>6}  {'run':<8}{'CPU s':>8}{'wall s':>8}{'anonymous MB':>14}{'resident MB':>13}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        for count in args.rows:
            file = folder / f"rows-{count}.jsonl"
            if not file.exists():
                write_rows(file, count)
            cache = "null" if args.cache == "off" else str(folder / f"cache-{count}")
            command = [
                sys.executable, "-m", "robustlm", "fit", *METHODS[args.method], "--model.backbone=builtin:tiny",
                f"--data.train={file}", f"--data.cache_dir={cache}", "--trainer.max_steps=1",
                "--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false",
                "--run=null", f"--trainer.default_root_dir={folder / 'runs'}", *args.more,
            ]  # fmt: skip
            for run in ("first",) if args.cache == "off" else ("first", "second"):
                found = Measured(command, folder / f"{args.method}-{count}-{run}.log")
                print(
                    f"{count:>9,} {file.stat().st_size / 1e6:>6.0f}  {run:<8}{found.cpu:>8.1f}{found.wall:>8.1f}"
                    f"{found.anonymous / 1e6:>14,.0f}{found.resident / 1e6:>13,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
