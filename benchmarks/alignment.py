"""How many of a student's tokens get a target from a teacher of another tokenizer, how fast, and how true it is.

    python -m benchmarks.alignment            # some minutes
    python -m benchmarks.alignment --quick    # under a minute

Shares and speed: real tokenizers (Qwen, a LLaMA-like SentencePiece, SmolLM2) against the student's, on answers of the
embedded world, sentences about stamps, and Python's language reference (`pydoc_data.topics`). The teachers' heads are
made up here, 16 words of the same text at falling probability; only the time depends on them.

Truth: SmolLM2-135M-Instruct reads the language reference. Total variation at T = 1 between each way to tell a teacher
in the student's tokens and what the teacher really induces on the next student token (`induced_truth`), over the
target's own events and its rest. Positions are drawn by kind and weighted to their natural frequency; a target that
says nothing at some positions is judged at the others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pydoc_data.topics
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from benchmarks import target_variants, vocabularies
from benchmarks.induced_truth import InducedTruth, Truth
from benchmarks.smollm2 import listen, load_smollm2
from embervlm import tokens
from embervlm.console import console
from embervlm.data.toyworld.scene import sample_scene
from embervlm.data.toyworld.stories import conversation, description
from embervlm.distill.align import align
from embervlm.distill.project import Response, ResponseTargets, project_batch, respond
from embervlm.distill.targets import ANCHORED, INTERIOR, NONE, TokenMap, build_token_map
from embervlm.distill.variants import strict
from embervlm.model.tokenizer import student_tokenizer
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs

STAMPS = Path(__file__).parents[1] / "examples" / "stamps"
KINDS = {"anchored": ANCHORED, "interior": INTERIOR, "none": NONE}
TOP_K, WHOLE = 16, 2048
ESCD = "ESCD's completion sets"
STRATA = ("numbers", "split word", "interior", "other")
VARIANTS: dict[str, Callable[[Sequence[Response], TokenMap], list[ResponseTargets]]] = {
    "first-token marginal": target_variants.marginal,
    "+ realised chain": target_variants.chain,
    "+ realised branch resolved": project_batch,
    "BPM": target_variants.bpm,
    "X-Token's projection": target_variants.xtoken,
    "Strict": strict,
    "ALM: only what was said": target_variants.alm,
}
PROMPT = "The Python Language Reference.\n\n"
LENGTH = 128  # tokens of a passage


def passages(tokenizer: Any, count: int) -> list[str]:
    """English text of about `LENGTH` tokens each."""
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    ids = tokenizer.encode(text, add_special_tokens=False)[: count * LENGTH]
    return [tokenizer.decode(ids[at : at + LENGTH]) for at in range(0, len(ids), LENGTH)]


def texts(count: int) -> dict[str, list[str]]:
    """Answers of each kind, `count` at most."""
    rng = random.Random(0)
    scenes = [sample_scene(rng, "never") for _ in range(count)]
    world = [answer for scene in scenes for _, answer in [*conversation(scene, rng), ("", description(scene))]]
    sys.path.insert(0, str(STAMPS))  # a folder of scripts
    labels, stories = importlib.import_module("labels"), importlib.import_module("stories")
    stamps = [answer for label in labels.read_labels().values() for _, answer in stories.turns(label, "A stamp.", rng)]
    reference = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    paragraphs = [part.strip("\n") for part in reference.split("\n\n") if part.strip()]
    kinds = {"embedded world": world, "stamps": stamps, "language reference": paragraphs}
    return {name: rng.sample(found, min(count, len(found))) for name, found in kinds.items()}


def made_up(tokenizer: Any, end: int, text: str, seed: int) -> TeacherOutputs:
    """A teacher that has read `text` and says 16 of its words at each place, the realised one among them."""
    spans = tokens.encode_spans(tokenizer, text)
    size = len(text.encode())
    ids = np.append(spans.ids, end).astype(np.int32)
    rng = np.random.default_rng(seed)
    logp = np.log(0.5 ** np.arange(1, TOP_K + 1)).astype(np.float32)
    head = rng.choice(ids, (len(ids), TOP_K))
    place = rng.integers(0, 4, len(ids))
    head[np.arange(len(ids)), place] = ids
    normalisers = [np.logaddexp.reduce(logp / t) for t in TEMPERATURE_GRID]
    return TeacherOutputs(
        record_id=text,
        turn=0,
        token_ids=ids,
        starts=np.append(spans.starts, size).astype(np.int32),
        ends=np.append(spans.ends, size).astype(np.int32),
        top_ids=head,
        top_logprobs=np.tile(logp, (len(ids), 1)),
        log_normalisers=np.tile(normalisers, (len(ids), 1)).astype(np.float32),
        realised_logprobs=logp[place],
    )


def measure_pair(tokenizer: Any, student: Any, answers: dict[str, list[str]], padded: int) -> dict[str, Any]:
    """Shares of each kind of text, seconds for the token map, positions a second of align + project."""
    words = tokens.token_bytes(tokenizer)
    words += [None] * (padded - len(words))
    begin = time.perf_counter()
    end = tokenizer.eos_token_id
    token_map = build_token_map(words, tokens.fingerprint(tokenizer), end, student)
    result: dict[str, Any] = {"tokens": len(words), "token_map_seconds": time.perf_counter() - begin, "shares": {}}
    result["paired_by_position"] = {}
    seconds, positions = [0.0, 0.0], 0
    for name, found in answers.items():
        jobs = respond(found, [made_up(tokenizer, end, text, seed) for seed, text in enumerate(found)], student)
        for turn in range(2):  # the second time, what the student makes of pairs of words is remembered
            begin = time.perf_counter()
            told = [target for at in range(0, len(jobs), 64) for target in project_batch(jobs[at : at + 64], token_map)]
            seconds[turn] += time.perf_counter() - begin
        kinds = np.concatenate([target.kinds for target in told])
        result["paired_by_position"][name] = paired_by_position(jobs)
        positions += len(kinds)
        result["shares"][name] = {kind: float((kinds == code).mean()) for kind, code in KINDS.items()}
        result["shares"][name]["with_target"] = float((kinds != NONE).mean())
    result |= {"positions": positions, "positions_per_second": positions / seconds[1]}
    return result | {"positions_per_second_first_time": positions / seconds[0]}


def paired_by_position(jobs: Sequence[Response]) -> float:
    """Share of the student's tokens that begin at the same byte as the teacher's token of the same number: what ULD
    compares with each other (arXiv 2402.12030)."""
    right = total = 0
    for _, spans, outputs in jobs:
        both = min(len(spans.ids), len(outputs) - 1)
        right += int((spans.starts[:both] == outputs.starts[:both]).sum())
        total += len(spans.ids)
    return right / max(total, 1)


def cut(outputs: TeacherOutputs, k: int) -> TeacherOutputs:
    """The same cache with fewer words a position."""
    return replace(outputs, top_ids=outputs.top_ids[:, :k], top_logprobs=outputs.top_logprobs[:, :k])


def stratum(text: bytes, start: int, end: int, kind: int, teacher_end: int) -> str:
    if text[start:end].strip()[:1].isdigit() or text[end : end + 1].isdigit():
        return "numbers"
    if kind == INTERIOR:
        return "interior"
    return "split word" if end < teacher_end else "other"


def judge(
    target: ResponseTargets, row: int, truth: Truth, owner: Callable[[int], int] = lambda token: token
) -> tuple[float, bool, float] | None:
    """Total variation over the target's events and its rest, whether both have the same likeliest event, and the
    probability that the events name. `owner` says to which event a student token belongs, where events are sets."""
    if target.kinds[row] == NONE:
        return None
    ids = target.ids[row]
    p = np.exp(target.logprobs[row].astype(np.float64))
    rest = float(np.exp(target.log_tail[row, 0]))
    owned: dict[int, float] = {}
    for token, mass in truth.probs.items():
        owned[owner(token)] = owned.get(owner(token), 0.0) + mass
    real = np.array([owned.get(int(token), 0.0) if token >= 0 else 0.0 for token in ids])
    total = p.sum() + rest
    off = np.abs(p / total - real).sum() + abs(rest / total - (1 - real.sum()))
    best = max(owned, key=lambda token: owned[token])
    return float(off / 2), bool(ids[p.argmax()] == best), float(p.sum() / total)


def measure_truth(student: Any, count: int, wanted: int, budget: int, heads: dict[str, int]) -> dict[str, Any]:
    """`wanted` positions of each stratum out of `count` passages, for caches of `heads` words a position."""
    model, tokenizer = load_smollm2()
    words = tokens.token_bytes(tokenizer)
    token_map = build_token_map(words, tokens.fingerprint(tokenizer), tokenizer.eos_token_id, student)
    induced = InducedTruth(model, words, student, budget)
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in STRATA}
    answers = passages(tokenizer, count)
    spoken = []
    for number, text in enumerate(answers):
        teacher, own = tokens.encode_spans(tokenizer, text), tokens.encode_spans(student, text)
        alignment = align(own, teacher)
        spoken.append((own, alignment))
        for j in np.flatnonzero(alignment.kinds != NONE).tolist():
            end = int(teacher.ends[alignment.first[j]])
            kind = stratum(text.encode(), int(own.starts[j]), int(own.ends[j]), int(alignment.kinds[j]), end)
            places[kind].append((number, j))
    total = sum(map(len, places.values()))
    share = {name: len(found) / total for name, found in places.items()}
    rng = random.Random(0)
    drawn = [(n, j, name) for name, found in places.items() for n, j in rng.sample(found, min(wanted, len(found)))]
    judged: dict[str, list[tuple[str, tuple[float, bool, float] | None]]] = {}
    sums = np.zeros(4)
    prompt = tokenizer.encode(PROMPT, add_special_tokens=False)
    last, outputs, context, p = -1, None, None, None
    told: dict[str, ResponseTargets] = {}
    for n, j, name in track(sorted(drawn), "asking the teacher", console=console):
        own, alignment = spoken[n]
        if n != last:
            last = n
            outputs, logp, context = listen(model, tokenizer, prompt, answers[n], answers[n], max(heads.values()))
            p = logp.exp().numpy()
            for label, k in heads.items():
                for variant, tell in VARIANTS.items():
                    (told[variant + label],) = tell([(own.ids, own, cut(outputs, k))], token_map)
        first, boundary = int(alignment.first[j]), int(alignment.boundary[j])
        read = own.ids[boundary:j].tolist()
        read_bytes = answers[n].encode()[own.starts[boundary] : own.starts[j]]
        truth = induced.at(context, len(prompt) + first, p[first], read, read_bytes)
        sums += (1, truth.unopened, truth.opened, truth.moved)
        for variant, target in told.items():
            judged.setdefault(variant, []).append((name, judge(target, j, truth)))
        for label, k in heads.items():
            owner = target_variants.completions(outputs.top_ids[first, :k], token_map)
            judged.setdefault(ESCD + label, []).append((name, judge(told["BPM" + label], j, truth, owner)))
    return {
        "positions": len(drawn),
        "share": share,
        "drawn": {name: sum(kind == name for _, _, kind in drawn) for name in STRATA},
        "unopened": sums[1] / sums[0],
        "moved_of_opened": sums[3] / max(sums[2], 1e-12),
        "variants": {variant: summary(found, share) for variant, found in judged.items()},
    }


def summary(found: list[tuple[str, tuple[float, bool, float] | None]], share: dict[str, float]) -> dict[str, Any]:
    """Means of each stratum, and of all weighted to natural frequency over the positions that have a target."""
    by = {name: [score for kind, score in found if kind == name] for name in share}
    covered = {name: [score for score in scores if score is not None] for name, scores in by.items()}
    weight = {name: share[name] * len(covered[name]) / max(len(by[name]), 1) for name in share}
    mean = {name: np.mean(scores, axis=0) for name, scores in covered.items() if scores}
    anchored = [name for name in mean if name != "interior"]
    everything = sum(weight[name] * mean[name] for name in mean) / sum(weight[name] for name in mean)
    return {
        "tv": float(everything[0]),
        "tv_anchored": float(
            sum(weight[name] * mean[name][0] for name in anchored) / sum(weight[name] for name in anchored)
        ),
        "top1": float(everything[1]),
        "named": float(everything[2]),
        "with_target": sum(weight.values()) / sum(share[name] for name in share if by[name]),
        "tv_by_kind": {name: float(scores[0]) for name, scores in mean.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    student = student_tokenizer()
    pairs: dict[str, tuple[Callable[[], Any], int]] = {
        "Qwen": (vocabularies.qwen, 151_936),
        "LLaMA-like": (vocabularies.llama_style, 32_000),
        "SmolLM2": (vocabularies.smollm2, 49_152),
    }
    answers = texts(50 if options.quick else 2000)
    table = Table(
        "teacher",
        "text",
        "anchored",
        "interior",
        "none",
        "with target",
        "ULD pairs",
        "map s",
        "positions/s",
        "first time",
    )
    found: dict[str, Any] = {}
    for name, (load, size) in track(list(pairs.items()), "aligning", console=console):
        try:
            found[name] = measure_pair(load(), student, answers, size)
        except vocabularies.Missing as problem:
            found[name] = {"skipped": str(problem)}
            continue
        speed = (
            found[name][key] for key in ("token_map_seconds", "positions_per_second", "positions_per_second_first_time")
        )
        paired = {kind: f"{100 * part:.1f}%" for kind, part in found[name]["paired_by_position"].items()}
        columns = [f"{value:,.1f}" if value < 100 else f"{value:,.0f}" for value in speed]
        for kind, shares in found[name]["shares"].items():
            table.add_row(
                name, kind, *(f"{100 * shares[key]:.2f}%" for key in (*KINDS, "with_target")), paired[kind], *columns
            )
            name, columns = "", ["", "", ""]
    console.print(table)
    for name, result in found.items():
        if "skipped" in result:
            console.print(f"{name} is skipped: {result['skipped']}.")
    heads = {"": TOP_K} if options.quick else {"": TOP_K, ", whole head": WHOLE}
    truth = measure_truth(student, *((6, 3, 32) if options.quick else (60, 75, 320)), heads)
    show_truth(truth)
    default = truth["variants"]["+ realised branch resolved"]
    qwen = found["Qwen"].get("shares", {})
    print(
        json.dumps(
            {
                "benchmark": "alignment",
                "quick": options.quick,
                "tv": default["tv"],
                "tv_anchored": default["tv_anchored"],
                "tv_numbers": default["tv_by_kind"].get("numbers"),
                "qwen_with_target": {kind: shares["with_target"] for kind, shares in qwen.items()},
                "pairs": found,
                "truth": truth,
            }
        )
    )
    return 0


def show_truth(truth: dict[str, Any]) -> None:
    drawn = ", ".join(f"{n} {name} ({100 * truth['share'][name]:.1f}%)" for name, n in truth["drawn"].items())
    console.print(
        f"Truth at {drawn}. Left unopened: {truth['unopened']:.3f} of the mass, "
        f"of which {truth['moved_of_opened']:.3f} would move if it is like what was opened."
    )
    table = Table("target", "TV", "anchored", "top-1", *STRATA, "with target", "named")
    for variant, result in truth["variants"].items():
        kinds = (result["tv_by_kind"].get(name) for name in STRATA)
        table.add_row(
            variant,
            f"{result['tv']:.4f}",
            f"{result['tv_anchored']:.4f}",
            f"{result['top1']:.3f}",
            *("" if value is None else f"{value:.4f}" for value in kinds),
            f"{100 * result['with_target']:.1f}%",
            f"{result['named']:.3f}",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
