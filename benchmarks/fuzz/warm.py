"""What every worker needs, imported once by the server that they are forked from."""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import embervlm.model.modeling  # noqa: E402, F401
from benchmarks.fuzz.parts import RUNS as RUNS  # noqa: E402
from benchmarks.fuzz.world import processor  # noqa: E402
from embervlm.console import console, errors  # noqa: E402

console.quiet = errors.quiet = True
processor()
