"""How a student is taught: each arm is settings of `embervlm train` and a way to read a regime. No second trainer.

A new arm is one line here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

TEACHER = "toy-llava"
STUDENT, SHARED = "tiny", "tiny-shared"
"""Presets: the embedded student, and the same with the teacher's tokenizer."""
CAPTIONS = "captions"
"""The usual Stage 1: captions alone."""
SOFT = "--distillation_alpha 0.9 --sft_weight 0.1 --distillation_temperature 1"
FADING = "--alpha_schedule cosine --alpha_start 0.9 --alpha_end 0.1 --distillation_temperature 1"


@dataclass(frozen=True)
class Alignment:
    """A Stage 1 that students begin from."""

    name: str
    flags: str = ""  # of `embervlm train --stages 1`, beyond those of all
    longer: float = 1.0  # times the steps

    @property
    def decides(self) -> str:
        """All by which it differs from the usual one."""
        return " ".join(filter(None, (self.flags, f"{self.longer:g} times the steps" if self.longer != 1 else "")))

    @property
    def taught(self) -> bool:
        """By a cache of the captions, which is given with these flags."""
        return "--no_disable_distillation" in self.flags


OTHER_SEEDS = (1, 2, 3)
"""Of Stage 1; the usual one has seed 0."""
WITH_TEACHER = f"--no_disable_distillation {SOFT}"
ALIGNMENTS = {
    alignment.name: alignment
    for alignment in (
        Alignment(CAPTIONS),
        Alignment("taught", WITH_TEACHER),
        Alignment("slow", "--learning_rate 1e-3"),
        Alignment("taught-slow", f"{WITH_TEACHER} --learning_rate 1e-3"),
        Alignment("longer", longer=1.25),
        *(Alignment(f"seed{seed}", f"--seed {seed}") for seed in OTHER_SEEDS),
        *(Alignment(f"taught-seed{seed}", f"{WITH_TEACHER} --seed {seed}") for seed in OTHER_SEEDS),
    )
}


@dataclass(frozen=True)
class Arm:
    """One line of the grid's second axis."""

    name: str
    title: str
    flags: str  # of `embervlm train`
    reads: str = "taught"  # see `regimes`
    cached: bool = True  # what the teacher says comes from a cache
    targets: str = ""  # of `benchmarks.target_variants`, where it is not one of `--distillation_targets`
    live: str = ""  # or from this teacher at each step, with all its logits
    student: str = STUDENT
    alignment: str = CAPTIONS  # of `ALIGNMENTS`
    against: str = "sft"  # whose accuracy its gain is counted from
    searched_as: str = ""  # the arm whose learning rate it takes: that with the same loss, or the nearest to it

    @property
    def decides(self) -> str:
        """All by which its training differs from another arm's on the same data."""
        student = "" if self.student == STUDENT else self.student
        aligned = ALIGNMENTS[self.alignment].decides
        parts = (self.flags, self.targets, self.live, student, aligned and f"after Stage 1 with {aligned}")
        return " ".join(filter(None, parts))

    @property
    def distilled(self) -> bool:
        return "--disable_distillation" not in self.flags


def plain(name: str, title: str, reads: str = "labels", more: str = "", searched_as: str = "sft") -> Arm:
    """Cross-entropy on what it reads: no teacher takes part in the training."""
    flags = f"--disable_distillation {more}".strip()
    return Arm(name, title, flags, reads, cached=False, searched_as=searched_as)


def soft(name: str, title: str, flags: str = SOFT, reads: str = "taught", targets: str = "") -> Arm:
    """As the recommended loss, but for one thing."""
    return Arm(name, title, flags, reads, targets=targets, searched_as="soft")


def aligned(alignment: str, arm: Arm, against: str = "sft") -> Arm:
    """That arm, beginning from another Stage 1."""
    return replace(arm, name=f"{alignment}-{arm.name}", alignment=alignment, against=against)


def of_other_seed(seed: int) -> tuple[Arm, ...]:
    """What decides most, beginning from a Stage 1 of that seed; compared with SFT that begins there, too."""
    after, sft = f"after a Stage 1 of seed {seed}", f"seed{seed}-sft"
    return (
        aligned(f"seed{seed}", plain("sft", f"as SFT, {after}")),
        aligned(f"seed{seed}", plain("sure", f"the teacher's sure answers, {after}", "sure-answers"), sft),
        aligned(f"seed{seed}", plain("filled", f"as filled, {after}", "taught"), sft),
        aligned(f"taught-seed{seed}", plain("sft", f"as SFT, {after} with a teacher"), sft),
        aligned(f"taught-seed{seed}", plain("filled", f"as filled, {after} with a teacher", "taught"), sft),
    )


def uld(name: str, title: str, weight: float) -> Arm:
    """Sorted probabilities; the rate is searched at the published weight."""
    flags = f"--distillation_targets uld --distillation_loss uld --distillation_alpha {weight:g} --sft_weight 1"
    return Arm(name, title, f"{flags} --distillation_temperature 1", searched_as="uld")


ARMS = {
    arm.name: arm
    for arm in (
        plain("sft", "labels alone (SFT)"),
        soft("guide", "0.7 CE + 0.3 T² KL, T = 2 (the guide's)", "--distillation_alpha 0.3"),
        soft("soft", "0.1 CE + 0.9 KL, T = 1"),
        soft("soft2", "0.1 CE + 0.9 T² KL, T = 2", "--distillation_alpha 0.9 --sft_weight 0.1"),
        soft("half", "0.5 CE + 0.5 KL, T = 1", "--distillation_alpha 0.5 --distillation_temperature 1"),
        soft("pure", "KL alone, T = 1", "--distillation_alpha 1 --sft_weight 0 --distillation_temperature 1"),
        soft("fading", "from 0.9 to 0.1 KL by a cosine, CE the rest, T = 1", FADING),
        soft("reverse", "0.1 CE + 0.9 KL(student || teacher), T = 1", f"{SOFT} --distillation_loss reverse_kl"),
        soft("jsd", "0.1 CE + 0.9 Jensen-Shannon, T = 1", f"{SOFT} --distillation_loss jsd"),
        soft("soft-labels", "0.1 CE + 0.9 KL, T = 1, on labelled records only", reads="labels"),
        plain("answers", "sequence level: the teacher's answers as labels", "answers", searched_as="answers"),
        plain("sure", "those of the teacher's answers that it is sure of as labels", "sure-answers"),
        plain("agreed", "those that no label contradicts as labels", "agreed"),
        plain("filled", "labels, and the teacher's answers where there are none", "taught"),
        soft("answers-soft", "the teacher's answers, 0.1 CE + 0.9 KL, T = 1", reads="answers"),
        plain(
            "projector-slow",
            "as SFT, the projector at 0.3 of its learning rate",
            more="--projector_learning_rate 3e-4",
        ),
        plain(
            "projector-fast",
            "as SFT, the projector at 3 times its learning rate",
            more="--projector_learning_rate 3e-3",
        ),
        aligned("taught", plain("sft", "labels alone, after a Stage 1 with a teacher")),
        aligned("taught", plain("sure", "the teacher's sure answers, after a Stage 1 with it", "sure-answers")),
        aligned("taught", plain("filled", "as filled, after a Stage 1 with a teacher", "taught")),
        aligned("taught", soft("soft", "0.1 CE + 0.9 KL, T = 1, after a Stage 1 with a teacher")),
        aligned("slow", plain("sft", "as SFT, after a Stage 1 at a third of the rate")),
        aligned("taught-slow", plain("sft", "as SFT, after a Stage 1 with a teacher at a third of the rate")),
        aligned("longer", plain("sft", "as SFT, after a Stage 1 of a quarter more steps")),
        *(arm for seed in OTHER_SEEDS for arm in of_other_seed(seed)),
        plain("blind", "as SFT, no picture in train nor in val", "blind"),
        soft("anchored", "as soft, marginals of a word's first token alone", targets="marginal"),
        soft("chain", "as soft, and what was said within a word, as it was said", targets="chain"),
        soft("top4", "as soft, 4 words of a position and the exact rest", targets="top4"),
        soft("strict", "as soft, Strict's targets (2610.08448)", f"{SOFT} --distillation_targets strict"),
        soft("truncated", "as soft, top 16 renormalised, no tail", f"{SOFT} --distillation_targets truncated"),
        soft("alm", "as soft, the label's probability alone (as ALM, 2503.20083)", targets="alm"),
        soft("bpm", "as soft, BPM's targets and its residual (2607.22334)", targets="bpm"),
        soft("escd", "as soft, ESCD's completion sets (2609.34738)", targets="escd"),
        soft("xtoken", "as soft, X-Token's targets (2605.21699)", targets="xtoken"),
        uld("uld", "CE + 1.5 ULD (2402.12030)", 1.5),
        uld("uld-light", "CE + 0.5 ULD", 0.5),
        Arm(
            "online",
            "as soft, the teacher live with all its logits",
            SOFT,
            cached=False,
            live=TEACHER,
            searched_as="soft",
        ),
        Arm(
            "shared-sft",
            "as SFT, a student with the teacher's tokenizer",
            "--disable_distillation",
            "labels",
            cached=False,
            student=SHARED,
            searched_as="sft",
        ),
        Arm(
            "shared-soft",
            "as soft, a student with the teacher's tokenizer",
            SOFT,
            student=SHARED,
            against="shared-sft",
            searched_as="soft",
        ),
        Arm(
            "shared",
            "as online, a student with the teacher's tokenizer",
            SOFT,
            cached=False,
            live=TEACHER,
            student=SHARED,
            against="shared-sft",
            searched_as="soft",
        ),
    )
}
