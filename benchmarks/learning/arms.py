"""How a student is taught: each arm is settings of `embervlm train` and a way to read a regime. No second trainer.

A new arm is one line here.
"""

from __future__ import annotations

from dataclasses import dataclass

TEACHER = "toy-llava"
STUDENT, SHARED = "tiny", "tiny-shared"
"""Presets: the embedded student, and the same with the teacher's tokenizer."""
SOFT = "--distillation_alpha 0.9 --sft_weight 0.1 --distillation_temperature 1"
FADING = "--alpha_schedule cosine --alpha_start 0.9 --alpha_end 0.1 --distillation_temperature 1"


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
    against: str = "sft"  # whose accuracy its gain is counted from
    searched_as: str = ""  # the arm whose learning rate it takes: that with the same loss, or the nearest to it

    @property
    def decides(self) -> str:
        """All by which its training differs from another arm's on the same data."""
        student = "" if self.student == STUDENT else self.student
        return " ".join(filter(None, (self.flags, self.targets, self.live, student)))

    @property
    def distilled(self) -> bool:
        return "--disable_distillation" not in self.flags


ARMS = {
    arm.name: arm
    for arm in (
        Arm("sft", "labels alone (SFT)", "--disable_distillation", "labels", cached=False),
        Arm("guide", "0.7 CE + 0.3 T² KL, T = 2 (the guide's)", "--distillation_alpha 0.3", searched_as="soft"),
        Arm("soft", "0.1 CE + 0.9 KL, T = 1", SOFT),
        Arm("soft2", "0.1 CE + 0.9 T² KL, T = 2", "--distillation_alpha 0.9 --sft_weight 0.1", searched_as="soft"),
        Arm(
            "half",
            "0.5 CE + 0.5 KL, T = 1",
            "--distillation_alpha 0.5 --distillation_temperature 1",
            searched_as="soft",
        ),
        Arm(
            "pure",
            "KL alone, T = 1",
            "--distillation_alpha 1 --sft_weight 0 --distillation_temperature 1",
            searched_as="soft",
        ),
        Arm("fading", "from 0.9 to 0.1 KL by a cosine, CE the rest, T = 1", FADING, searched_as="soft"),
        Arm(
            "reverse",
            "0.1 CE + 0.9 KL(student || teacher), T = 1",
            f"{SOFT} --distillation_loss reverse_kl",
            searched_as="soft",
        ),
        Arm("jsd", "0.1 CE + 0.9 Jensen-Shannon, T = 1", f"{SOFT} --distillation_loss jsd", searched_as="soft"),
        Arm("soft-labels", "0.1 CE + 0.9 KL, T = 1, on labelled records only", SOFT, "labels", searched_as="soft"),
        Arm("answers", "sequence level: the teacher's answers as labels", "--disable_distillation", "answers", False),
        Arm(
            "sure",
            "those of the teacher's answers that it is sure of as labels",
            "--disable_distillation",
            "sure-answers",
            False,
            searched_as="sft",
        ),
        Arm(
            "agreed",
            "those that no label contradicts as labels",
            "--disable_distillation",
            "agreed",
            False,
            searched_as="sft",
        ),
        Arm(
            "filled",
            "labels, and the teacher's answers where there are none",
            "--disable_distillation",
            "taught",
            False,
            searched_as="sft",
        ),
        Arm("answers-soft", "the teacher's answers, 0.1 CE + 0.9 KL, T = 1", SOFT, "answers", searched_as="soft"),
        Arm(
            "projector-slow",
            "as SFT, the projector at 0.3 of its learning rate",
            "--disable_distillation --projector_learning_rate 3e-4",
            "labels",
            False,
            searched_as="sft",
        ),
        Arm(
            "projector-fast",
            "as SFT, the projector at 3 times its learning rate",
            "--disable_distillation --projector_learning_rate 3e-3",
            "labels",
            False,
            searched_as="sft",
        ),
        Arm(
            "blind",
            "as SFT, no picture in train nor in val",
            "--disable_distillation",
            "blind",
            False,
            searched_as="sft",
        ),
        Arm(
            "anchored", "as soft, marginals of a word's first token alone", SOFT, targets="marginal", searched_as="soft"
        ),
        Arm(
            "chain",
            "as soft, and what was said within a word, as it was said",
            SOFT,
            targets="chain",
            searched_as="soft",
        ),
        Arm("top4", "as soft, 4 words of a position and the exact rest", SOFT, targets="top4", searched_as="soft"),
        Arm(
            "strict",
            "as soft, Strict's targets (2610.08448)",
            f"{SOFT} --distillation_targets strict",
            searched_as="soft",
        ),
        Arm(
            "truncated",
            "as soft, top 16 renormalised, no tail",
            f"{SOFT} --distillation_targets truncated",
            searched_as="soft",
        ),
        Arm(
            "alm",
            "as soft, the label's probability alone (as ALM, 2503.20083)",
            SOFT,
            targets="alm",
            searched_as="soft",
        ),
        Arm("bpm", "as soft, BPM's targets and its residual (2607.22334)", SOFT, targets="bpm", searched_as="soft"),
        Arm("escd", "as soft, ESCD's completion sets (2609.34738)", SOFT, targets="escd", searched_as="soft"),
        Arm("xtoken", "as soft, X-Token's targets (2605.21699)", SOFT, targets="xtoken", searched_as="soft"),
        Arm(
            "uld",
            "CE + 1.5 ULD (2402.12030)",
            "--distillation_targets uld --distillation_loss uld --distillation_alpha 1.5 --sft_weight 1 "
            "--distillation_temperature 1",
        ),
        Arm(
            "uld-light",
            "CE + 0.5 ULD",
            "--distillation_targets uld --distillation_loss uld --distillation_alpha 0.5 --sft_weight 1 "
            "--distillation_temperature 1",
            searched_as="uld",
        ),
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
