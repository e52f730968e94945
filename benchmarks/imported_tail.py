"""How well a tail is guessed whose mass is known at T = 1 only, as in records of an inference server.

    python -m benchmarks.imported_tail            # 20,000 tokens of English; minutes
    python -m benchmarks.imported_tail --quick    # 2,000 tokens

The teacher is `benchmarks.cache_fidelity`'s SmolLM2. Of each token the K likeliest entries are given away; told is the
mean absolute error of the log of the tail, in nats, at T = 2: if the rest is uniform, if it falls as a power law fitted
to the second half of the entries, as one that goes on from the last entry, and as one of fixed exponents. Where less
than `NOISE` is left at T = 1 no tail can be told from rounding, and none is kept: of these positions their share is
told, and how much of the mass at T = 2 is so lost there.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
from rich.progress import track
from rich.table import Table

from benchmarks.cache_fidelity import answers, score
from benchmarks.smollm2 import load_smollm2
from embervlm.console import console
from embervlm.teachers.from_logprobs import EXPONENT, estimate_tails
from embervlm.teachers.outputs import NOISE, TEMPERATURE_GRID

TOP_K = (5, 20, 48)
EXPONENTS = (1.3, 1.5, EXPONENT, 2.0)
_AT = TEMPERATURE_GRID.index(2.0)


def guesses(entries: np.ndarray, mass: np.ndarray, vocabulary: int) -> dict[str, np.ndarray]:
    """Log of the tail at T = 2, [n], by each way; entries [n, k] are log-probabilities, falling."""
    n, k = entries.shape

    def law(exponent: np.ndarray) -> np.ndarray:
        rows = (estimate_tails(m, np.array([k]), vocabulary, e) for m, e in zip(mass[:, None], exponent, strict=True))
        return np.concatenate(list(rows))[:, _AT]

    ranks, half = np.log(np.arange(1, k + 1)), k // 2
    x = ranks[half:] - ranks[half:].mean()
    fitted = np.clip(-(entries[:, half:] * x).sum(1) / (x * x).sum(), 0.01, 8)
    low, high = np.full(n, 0.01), np.full(n, 8.0)
    for _ in range(30):  # the law that has the mass and whose value at rank k is the last entry's
        middle = (low + high) / 2
        r = np.geomspace(k + 0.5, vocabulary + 0.5, 400)
        curve = entries[:, [-1]] + middle[:, None] * (np.log(k) - np.log(r))
        heavy = np.trapezoid(np.exp(curve), r, axis=1) > mass
        low, high = np.where(heavy, middle, low), np.where(heavy, high, middle)
    return {
        "uniform": np.log(vocabulary - k) + (np.log(mass) - np.log(vocabulary - k)) / 2,
        "power law, fitted": law(fitted),
        "power law, goes on": law(middle),
        **{f"power law, r^-{e}": estimate_tails(mass, np.full(n, k), vocabulary, e)[:, _AT] for e in EXPONENTS},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    model, tokenizer = load_smollm2()
    errors: dict[int, dict[str, list[np.ndarray]]] = {k: {} for k in TOP_K}
    sure: dict[int, list[np.ndarray]] = {k: [] for k in TOP_K}
    total = 0
    for text in track(answers(tokenizer, 2_000 if options.quick else 20_000), "scoring", console=console):
        logp = -np.sort(-score(model, tokenizer, *text)[1].double().numpy(), axis=1)
        total += len(logp)
        for k in TOP_K:
            mass = np.exp(logp[:, k:]).sum(1)
            left = np.exp(logp[:, k:] / 2).sum(1)
            told = mass > NOISE
            sure[k].append((left / np.exp(logp / 2).sum(1))[~told])
            truth = np.log(left[told])
            for name, guess in guesses(logp[told, :k], mass[told], logp.shape[1]).items():
                errors[k].setdefault(name, []).append(np.abs(guess - truth))
    means = {k: {name: float(np.concatenate(part).mean()) for name, part in by.items()} for k, by in errors.items()}
    table = Table("tail", *(f"{k} entries" for k in TOP_K))
    for name in means[TOP_K[0]]:
        table.add_row(name, *(f"{means[k][name]:.2f}" for k in TOP_K))
    lost = {k: np.concatenate(part) for k, part in sure.items()}
    table.add_row("positions without a tail", *(f"{len(lost[k]) / total:.1%}" for k in TOP_K))
    table.add_row("mass lost there at T = 2", *(f"{lost[k].mean() if len(lost[k]) else 0:.1%}" for k in TOP_K))
    console.print(table)
    found = {str(k): {name: round(value, 3) for name, value in by.items()} for k, by in means.items()}
    shares = {str(k): [round(len(v) / total, 4), round(float(v.sum()) / max(len(v), 1), 4)] for k, v in lost.items()}
    print(
        json.dumps(
            {"benchmark": "imported_tail", "quick": options.quick, "tokens": total, "nats_at_T2": found, "sure": shares}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
