"""What the YAML files beside this one call; runs inside lmms-eval."""

import copy

from lmms_eval.tasks.ok_vqa.utils import ok_vqa_process_results
from lmms_eval.tasks.vqav2.utils import vqav2_process_results
from PIL import Image

from embervlm.evaluate.vqa import vqa_accuracy


def picture(doc):
    return [Image.open(doc["image"])] if doc["image"] else []


def score_vqa(doc, results):
    theirs = {
        "question_id": doc["id"],
        "answers": [{"answer": a, "answer_id": n} for n, a in enumerate(doc["answers"])],
    }
    accuracy = vqav2_process_results(theirs, results)["exact_match"]
    return {"official": vqa_accuracy(results[0], doc["answers"]), "lmms_eval_vqav2": accuracy}


def score_okvqa(doc, results):
    theirs = {"question_id": doc["id"], "answers": copy.copy(doc["answers"])}  # their code writes into the list
    accuracy = ok_vqa_process_results(theirs, results)["exact_match"]
    return {"official": vqa_accuracy(results[0], doc["answers"]), "lmms_eval_ok_vqa": accuracy}


def score_equal(doc, results):
    return {"exact": float(results[0] == doc["answer"].strip())}


def score_likelihood(doc, results):
    """By hand: 0.7.3's own scoring of loglikelihood tasks takes the list of one pair for the pair, and fails."""
    ((score, greedy),) = results
    return {"log_likelihood": score, "greedy": float(greedy)}
