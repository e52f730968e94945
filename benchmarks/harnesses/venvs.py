"""A virtual environment of its own for each harness: what they pin is theirs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make_venv(folder: Path, packages: Sequence[str], pip_args: Sequence[str] = ()) -> Path:
    """The interpreter of an environment with this project and `packages`; installs the first time (minutes, 7 GB)."""
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(packages)
    if not (done.is_file() and done.read_text(encoding="utf-8") == wanted):
        if not python.is_file():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        print(f"Installing {' '.join(packages)} into {folder}; this takes minutes.", flush=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *pip_args, *packages, "-e", str(ROOT)], check=True)
        done.write_text(wanted, encoding="utf-8")
    return python
