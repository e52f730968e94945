"""Where the commands leave their files, if nobody says otherwise."""

from __future__ import annotations

from pathlib import Path

TOY = Path("data/toy")
STAGE2, CACHE = Path("data/stage2"), Path("outputs/stage2/teacher_outputs")
FINAL = Path("outputs/stage2/checkpoint-final")
