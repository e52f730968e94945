"""The student as a model of VLMEvalKit, which is no package of an index: it is run from its checkout.

    python -m embervlm.integrations.vlmevalkit --kit VLMEvalKit --checkpoint outputs/stage2/checkpoint-final \\
        --data MMBench_DEV_EN --mode infer

VLMEvalKit has no hook for models of others, so this registers ours and then runs the checkout's own run.py.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from embervlm.errors import UserError

NAME = "EmberVLM"


def model_class(base: type) -> type:
    """Our model over VLMEvalKit's BaseModel, which only a process that runs the kit can import."""

    class EmberVLM(base):  # type: ignore[misc, valid-type]
        """A checkpoint that answers VLMEvalKit's messages by `embervlm.EmberVLM.generate`."""

        INTERLEAVE = False

        def __init__(
            self, model_path: str, device: str = "auto", first_picture: bool = False, **generation: Any
        ) -> None:
            """A checkpoint's folder or hub id; generation arguments, such as max_new_tokens; greedy by default."""
            super().__init__()
            from embervlm.device import pick_device
            from embervlm.integrations.asking import read_decoding
            from embervlm.model import EmberVLM as Student

            self.decoding, self.first_picture = read_decoding(generation), first_picture
            self.model = Student.from_pretrained(model_path).to(pick_device(device))

        def generate_inner(self, message: Sequence[dict[str, str]], dataset: str | None = None) -> str:
            """The answer to one message: texts joined by line breaks, and at most one picture.

            Raises:
                UserError: several pictures (without `first_picture`), a video.
            """
            from embervlm.integrations.asking import Question, answer_all, one_picture

            prompt = "\n".join(part["value"] for part in message if part["type"] == "text")
            shown = [part["value"] for part in message if part["type"] != "text"]
            where = f"A question of {dataset or 'VLMEvalKit'}"
            picture = partial(one_picture, shown, where, self.first_picture)
            return answer_all(self.model, [Question(prompt, picture, self.decoding)])[0]

    return EmberVLM


def register(checkpoint: str, **options: Any) -> None:
    """Put `NAME` among the models that the kit in this process knows."""
    import vlmeval.vlm
    from vlmeval.config import supported_VLM

    made = model_class(vlmeval.vlm.BaseModel)
    vlmeval.vlm.EmberVLM = made  # where `run.py --config` looks for classes
    supported_VLM[NAME] = partial(made, model_path=checkpoint, **options)


def main(words: Sequence[str] | None = None) -> None:
    """Register the student, then be the kit's run.py."""
    parser = argparse.ArgumentParser(
        prog="python -m embervlm.integrations.vlmevalkit", description=main.__doc__, allow_abbrev=False
    )
    parser.add_argument("--kit", type=Path, required=True, help="checkout of VLMEvalKit, installed in this environment")
    parser.add_argument("--checkpoint", required=True, help="the student's folder or hub id")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--max_new_tokens", type=int, help="of every answer (default: 100)")
    parser.add_argument(
        "--first_picture", action="store_true", help="of several pictures show the first, instead of refusing"
    )
    parser.epilog = "Everything else goes to run.py: --data, --work-dir, --mode, ..."
    settings, rest = parser.parse_known_args(words)
    if not (settings.kit / "run.py").is_file():
        raise UserError(f"There is no run.py in {settings.kit}: --kit is a checkout of VLMEvalKit.")
    sys.path.insert(0, str(settings.kit.resolve()))
    register(
        settings.checkpoint,
        device=settings.device,
        max_new_tokens=settings.max_new_tokens,
        first_picture=settings.first_picture,
    )
    sys.argv = ["run.py", *rest, *([] if "--config" in rest else ["--model", NAME])]
    runpy.run_path(str(settings.kit / "run.py"), run_name="__main__")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
