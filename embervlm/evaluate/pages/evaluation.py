"""The page of one evaluation: figures with their intervals, and questions with pictures, worst first, to filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from embervlm.evaluate.pages.cards import WORST_WEIGHT, Album, choose, make_card
from embervlm.evaluate.pages.figures import decoding, divergence_figures, shown
from embervlm.evaluate.pages.report_inputs import Said
from embervlm.evaluate.pages.templates import duration, percent, read_asset, render_page, script_source
from embervlm.evaluate.paired import span
from embervlm.evaluate.questions import CLOSED, Answered, answered, benchmarks_of, title_of
from embervlm.evaluate.results import EvalResult
from embervlm.evaluate.vqa import Share, VqaScores
from embervlm.files import write_whole

if TYPE_CHECKING:
    from embervlm.data.record import Record

OFFICIAL = (
    "VQA accuracy is the official VQA-v2 scorer's: an answer that four of ten people gave counts in full. Exact match "
    "is plain equality with the reference."
)
INSTRUCTION = (
    "The instruction score, 0 to 1, is 0.4 relevance + 0.3 completeness + 0.3 coherence, by comparison with one "
    "reference."
)


def write_page(
    result: EvalResult, records: Sequence[Record], image_root: Path, path: Path, most: int = 300, seed: int = 0
) -> Path:
    """Write the page of a result that still holds its predictions.

    Args:
        records: those of the split.
        most: questions that are shown, drawn with more weight on the worst.
    """
    return write_whole(path, render_evaluation(result, records, image_root, most, seed))


def render_evaluation(
    result: EvalResult, records: Sequence[Record], image_root: Path, most: int = 300, seed: int = 0
) -> str:
    questions = {name: answered(name, records, answers) for name, answers in result.predictions.items()}
    album = Album(image_root)
    cards = [
        make_card(name, question.record, (Said("Answer", "student", question.answer, question.score),), album)
        for name, question in choose(questions, most, seed)
    ]
    script = read_asset("page.js")
    return render_page(
        "evaluation.html.jinja",
        result=result,
        title=f"{result.system.replace('_', ' ').capitalize()} on split {result.split}",
        subtitle=_subtitle(result),
        headline=_headline(result),
        explained=" ".join(
            words for words, has in ((OFFICIAL, result.vqa), (INSTRUCTION, result.instruct is not None)) if has
        ),
        tables=_tables(result),
        cards=cards,
        told=_told(questions, len(cards), album),
        album=album,
        facts=[
            ("Divergence from the teacher", divergence_figures(result)),
            ("Settings", {name: shown(value) for name, value in result.settings.items()}),
            ("Time", {name.replace("_", " "): duration(seconds) for name, seconds in result.seconds.items()}),
            ("Machine", result.environment),
        ],
        page_css=Markup(read_asset("page.css")),
        script=Markup(script),
        script_source=Markup(script_source(script)),
    )


def _subtitle(result: EvalResult) -> str:
    settings = result.settings
    parts = [f"Checkpoint {settings['checkpoint']}" if settings.get("checkpoint") else ""]
    parts.append(f"data {settings['dataset_path']} ({result.data})" if settings.get("dataset_path") else "")
    parts.append(f"answers {how}" if (how := decoding(settings)) else "")
    words = ", ".join(part for part in parts if part)
    return words[:1].upper() + words[1:] + "." if words else ""


def _headline(result: EvalResult) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = []
    for name, (n, score, interval) in benchmarks_of(result).items():
        is_vqa = name != "instruct"
        low, high = interval
        sure = span(interval) if is_vqa else f"{low:.3f} to {high:.3f}"
        cards.append(
            {
                "name": f"{title_of(name)} accuracy" if is_vqa else "Instruction score",
                "value": percent(score) if is_vqa else f"{score:.3f}",
                "at": score,
                "interval": interval,
                "note": f"95% interval {sure}, {n:,} questions",
            }
        )
    if result.divergence is not None:
        found = result.divergence
        note = f"nats per token at T = 1; same favourite token {percent(found.top1_agreement)}"
        name = "KL(student ‖ teacher)"
        cards.append({"name": name, "value": f"{found.student_teacher:.3f}", "interval": None, "note": note})
    return cards


def _tables(result: EvalResult) -> list[dict[str, Any]]:
    tables = []
    for name, scores in (*result.vqa.items(), *((f"{name}{CLOSED}", scores) for name, scores in result.closed.items())):
        others = ", ".join(f"{variant} {percent(accuracy)}" for variant, accuracy in scores.variants.items())
        tables.append(
            {
                "title": title_of(name),
                "measure": "accuracy",
                "percent": True,
                "exact": True,
                "rows": _vqa_rows(scores),
                "note": f"As others normalise answers: {others}." if others else "",
            }
        )
    if (found := result.instruct) is not None:
        rows = [{"name": "Score", "n": found.n, "value": found.score, "interval": found.interval, "whole": True}]
        for part in ("relevance", "completeness", "coherence"):
            rows.append({"name": part.title(), "n": found.n, "value": getattr(found, part), "interval": None})
        table = {"title": title_of("instruct"), "measure": "mean", "percent": False, "exact": False, "note": ""}
        tables.append(table | {"rows": [{"part": "", "whole": False} | row for row in rows]})
    return tables


def _vqa_rows(scores: VqaScores) -> list[dict[str, Any]]:
    def row(name: str, share: Share, whole: bool = False) -> dict[str, Any]:
        values = {"name": name, "n": share.n, "value": share.accuracy, "interval": share.interval}
        return values | {"exact": share.exact_match, "part": "", "whole": whole}

    rows = [row("All", scores.overall, True)]
    if scores.without_yes_no is not None and scores.without_yes_no.n < scores.overall.n:
        rows.append(row("Without yes/no", scores.without_yes_no))
    for part, groups in (("Answer type", scores.by_answer_type), ("Question type", scores.by_question_type)):
        if len(groups) > 1:
            rows.append({"part": part})
            rows += [row(name, share) for name, share in groups.items()]
    return rows


def _told(questions: Mapping[str, Sequence[Answered]], count: int, album: Album) -> str:
    total = sum(map(len, questions.values()))
    marks = "The mark is the score: ✓ from 0.6 on, ✗ below 0.3, ~ in between."
    lost = f" {album.missing:,} pictures are not there any more." if album.missing else ""
    if count == total:
        return f"All {total:,}. {marks}{lost}"
    return (
        f"{count:,} of {total:,}; {total - count:,} left out. They were drawn by chance, an answer that scores 0 "
        f"with {WORST_WEIGHT:g} times the weight of one that scores 1, so more of them are wrong than the figures "
        "above say. "
        f"{marks}{lost}"
    )
