"""A short run for `torchrun`, with the vision tower frozen: BatchNorm in training mode sees one process's pictures.

Packed or not, the samples come in one order.
"""

import sys
from pathlib import Path

from embervlm.batch.sampler import ImageMajorSampler
from embervlm.train import build, run
from tests.train.small_world import settings

real = run.build_model


def frozen_vision(*args):
    model = real(*args)
    model.unfreeze_vision(0)
    return model


if __name__ == "__main__":
    run.build_model = frozen_vision
    build.ImageMajorSampler = lambda records, seed, together, *rest: ImageMajorSampler(records, seed, True, *rest)
    data, out, batch_size, steps, resume, pack, accumulate = sys.argv[1:]
    cache = Path(data).parent / "cache"
    sys.exit(
        run.run_train(
            settings(
                Path(data),
                Path(out),
                batch_size=int(batch_size),
                max_steps=int(steps),
                save_steps=4,
                disable_distillation=False,
                use_cached_teacher_outputs=(cache,),
                resume_from=Path(resume) if resume else None,
                pack=pack == "packed",
                gradient_accumulation_steps=int(accumulate),
            )
        )
    )
