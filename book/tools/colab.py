"""Check that installing the library on Colab moves nothing that Colab brings.

`python book/tools/colab.py` is a part of `make colab-check`.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FROZEN = ROOT / "book" / "tools" / "colab-2026-08.txt"


def resolve(more: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Resolve what a chapter's first cell installs, and `more` requirements, with Colab's versions as constraints.

    The exit code is 0 where there is a solution, 1 where there is none, and 2 where the package index is out of reach.
    """
    python = re.search(r"Python (\d+\.\d+)", FROZEN.read_text())[1]
    options = ["--quiet", "--no-header", "--no-annotate", "--python-version", python, "--python-platform", "linux"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *options, "--constraints", FROZEN, "pyproject.toml", "-"]
    return subprocess.run(command, input="\n".join(more), cwd=ROOT, capture_output=True, text=True)


def main() -> None:
    done = resolve()
    if done.returncode == 1:
        sys.exit(
            f"{done.stderr}{FROZEN.name}: expected requirements that move nothing; lower a floor of pyproject.toml"
        )
    if done.returncode:
        sys.exit(done.stderr)
    stay = re.findall(r"^(\S+)==", FROZEN.read_text(), flags=re.MULTILINE)
    new = [line for line in done.stdout.split() if line.split("==")[0] not in stay]
    print(f"{FROZEN.name}: nothing in it moves; needed beside it, here or there: {' '.join(new)}")


if __name__ == "__main__":
    main()
