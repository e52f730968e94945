"""The student as a model of lmms-eval 0.7, which finds it by its entry point:

    lmms-eval --model embervlm --model_args pretrained=outputs/stage2/checkpoint-final --tasks ... --batch_size 32

This module is imported by lmms-eval, so only here is it certain to be there.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from embervlm.errors import UserError


def manifest() -> ModelManifest:
    """What the entry point group `lmms_eval.models` hands over."""
    return ModelManifest(model_id="embervlm", simple_class_path=f"{__name__}.EmberVLM")


class EmberVLM(lmms):
    """A checkpoint that answers lmms-eval's requests by `embervlm.EmberVLM.generate`."""

    is_simple = True

    def __init__(
        self,
        pretrained: str = "",
        batch_size: int | str = 1,
        device: str | None = None,
        max_new_tokens: int = 0,
        score_end: bool = False,
        first_picture: bool = False,
        **unknown: Any,
    ) -> None:
        """`--model_args`; lmms-eval adds its own batch_size and device.

        Args:
            pretrained: checkpoint folder or hub id.
            device: as in `--device` of embervlm; None: the GPU of this process, or the CPU.
            max_new_tokens: where a task names no limit; 0: what `generate` takes.
            score_end: an answer's log-likelihood counts the end of the turn.
            first_picture: show the first of several pictures instead of refusing the task.

        Raises:
            UserError: no checkpoint, an argument that means nothing here.
        """
        super().__init__()
        from embervlm.device import pick_device
        from embervlm.model import EmberVLM as Student
        from embervlm.model.answering import NEW_TOKENS

        unknown.pop("max_batch_size", None)
        if unknown:
            raise UserError(
                f"--model_args has {', '.join(sorted(unknown))}; the model embervlm takes pretrained, device, "
                "max_new_tokens, score_end, first_picture (and --batch_size)."
            )
        if not pretrained:
            raise UserError("No checkpoint was named: --model_args pretrained=FOLDER.")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise UserError(f"--batch_size is '{batch_size}', expected a number from 1.")
        if device in (None, "auto", "cuda") and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}" if pick_device("auto").type == "cuda" else "cpu"
        self.device = pick_device(device or "auto")
        self.batch_size = int(batch_size)
        self.max_new_tokens = int(max_new_tokens) or NEW_TOKENS
        self.score_end, self.first_picture = score_end, first_picture
        self._model = Student.from_pretrained(pretrained).to(self.device)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One answer to each request, in their order."""
        from embervlm.integrations.asking import Question, answer_all, read_decoding, without_places

        questions = []
        for request in requests:
            context, options, doc_to_visual, *place = request.args
            decoding = read_decoding(options, self.max_new_tokens)
            questions.append(Question(without_places(context), self._picture(doc_to_visual, *place), decoding))
        with self._bar(len(questions)) as bar:
            return answer_all(self._model, questions, self.batch_size, bar.update)

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """(log-probability in nats, whether greedy decoding would say it) of the target of each request.

        Of a choice of `multiple_choice` the *negative* log-probability where this lmms-eval takes the smallest value.
        The blank that lmms-eval puts before a choice joins texts; an answer of a chat does not begin with one.
        """
        from embervlm.integrations.asking import batches, without_places
        from embervlm.model.likelihood import log_likelihoods

        asked = []
        for request in requests:
            if len(request.args) != 6:
                raise UserError("acc_mutual_info asks for choices without a question; leave that metric out.")
            context, target, doc_to_visual, *place = request.args
            choice = isinstance(target, str)  # the target of a loglikelihood task is a function of the row
            text = target if choice else target(self._row(*place))
            sign = -1 if choice and smallest_choice_wins() else 1
            asked.append((without_places(context), str(text).strip(), self._picture(doc_to_visual, *place), sign))
        found = [(0.0, False)] * len(asked)
        order = sorted(range(len(asked)), key=lambda at: len(asked[at][0]) + len(asked[at][1]))
        with self._bar(len(asked)) as bar:
            for batch in batches(order, self.batch_size):
                prompts, answers, pictures, signs = zip(*(asked[at] for at in batch), strict=True)
                shown = [picture() for picture in pictures]
                scores = log_likelihoods(self._model, shown, prompts, answers, end=self.score_end)
                for at, sign, (score, greedy) in zip(batch, signs, scores, strict=True):
                    found[at] = sign * score, greedy
                bar.update(len(batch))
        return [kept_whole(pair) for pair in found]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused: each round of these tasks shows a further picture."""
        raise UserError("EmberVLM reads one picture and one question; tasks of several rounds are not for it.")

    def _row(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _picture(self, doc_to_visual: Any, doc_id: int, task: str, split: str) -> Any:
        from embervlm.integrations.asking import one_picture

        where = f"Question {doc_id} of {task}"
        return lambda: one_picture(doc_to_visual(self._row(doc_id, task, split)), where, self.first_picture)

    def _bar(self, total: int) -> Any:
        from tqdm import tqdm

        return tqdm(total=total, disable=self.rank != 0, desc="EmberVLM")


def smallest_choice_wins() -> bool:
    """Whether this lmms-eval's multiple_choice takes the choice of the smallest value.

    0.7.3 does (`np.argmin(lls)` in api/task.py, as most of its models return a loss), although its own interface says
    log-probability. Asked of its source, so that a version that follows the interface gets what it then expects.
    """
    from lmms_eval.api.task import ConfigurableTask

    return "argmin(lls" in inspect.getsource(ConfigurableTask.process_results)


def kept_whole(pair: tuple[float, bool]) -> Any:
    """The pair in a form that the evaluator hands on as the pair.

    0.7.3 unwraps every output as generated text and makes a string of a bare pair, so that all scoring of choices
    fails. What is inside its GenerationResult it leaves as it is. Asked of its code, as above.
    """
    from lmms_eval.api.instance import GenerationResult, unwrap_generation_output

    return pair if unwrap_generation_output(pair)[0] == pair else GenerationResult(text=pair)
