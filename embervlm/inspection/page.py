"""One self-contained HTML page of batches: pictures as the student sees them, labels in colour, the teacher below."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from embervlm.inspection.view import COLOURS, ExampleView, Token, visible

TOLD = 3
"""Most probable events of the teacher that are written under a position."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #222;
       background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ccc }
.sample { display: flex; gap: 1rem; margin: 1rem 0; align-items: flex-start }
.sample img, .none { width: 144px; height: 144px; flex: none; image-rendering: pixelated; border: 1px solid #ccc }
.none { display: flex; align-items: center; justify-content: center; color: #777 }
.row { display: flex; flex-wrap: wrap; gap: 2px 1px }
.token { white-space: pre; padding: 0 2px; border-radius: 3px; color: #666 }
.label { color: #000; text-align: center } .cut { text-decoration: line-through }
.said { display: block; font-size: 11px; color: #444; line-height: 1.25 }
.packed { display: flex; gap: 1px; margin: 2px 0 }
.box { flex-basis: 0; min-width: 0; overflow: hidden; white-space: nowrap; font-size: 11px; padding: 1px 0;
       background: #eee } .shown { border-bottom: 2px solid #222; font-weight: 600 }
.warn { color: #a33 } code { font-size: 13px }
"""


@dataclass(frozen=True)
class Shown:
    """One sample of a page. `told[i]`: what the teacher says at the i-th token of all answers, in words."""

    view: ExampleView
    picture: Image.Image | None
    facts: str
    told: tuple[str, ...]


def as_picture(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Pixels [3, H, W] after preprocessing -> the picture they stand for."""
    array = pixels.float().numpy().transpose(1, 2, 0) * np.array(std) + np.array(mean)
    return Image.fromarray((array * 255).round().clip(0, 255).astype(np.uint8))


def teacher_words(targets: Any, tokenizer: Any) -> tuple[str, ...]:
    """The most probable events at T = 1 of each position of a `ResponseTargets`, as `token 71%` lines."""
    words = []
    for ids, logprobs in zip(targets.ids, targets.logprobs, strict=True):
        best = [at for at in np.argsort(-logprobs)[:TOLD] if ids[at] >= 0]
        lines = [f"{visible(tokenizer.decode([int(ids[at])]))} {np.exp(logprobs[at]):.0%}" for at in best]
        words.append("\n".join(lines))
    return tuple(words)


def write_page(title: str, batches: Sequence[tuple[str, str, Sequence[Shown]]]) -> str:
    """HTML of (heading, HTML about the batch, samples) for each batch."""
    body = [f"<h1>{escape(title)}</h1>", _legend()]
    for heading, about, samples in batches:
        body += [f"<h2>{escape(heading)}</h2>", about]
        body += [_sample(shown) for shown in samples]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _legend() -> str:
    return (
        "<p>Coloured tokens are labels: the student is asked for them. Grey ones are read only. Tokens of one colour "
        "cover the same bytes for student and teacher. Below a label: what the teacher expects there, in the student's "
        "tokens.</p>"
    )


def _sample(shown: Shown) -> str:
    view = shown.view
    picture = '<div class="none">no picture</div>' if shown.picture is None else _image(shown.picture)
    told = iter(shown.told)
    tokens = "".join(_token(token, next(told, "") if token.colour is not None else "") for token in view.row)
    cut = ' <span class="warn">cut at max_length</span>' if view.truncated else ""
    return (
        f'<div class="sample">{picture}<div><code>{escape(view.record_id)}</code> {escape(shown.facts)}{cut}'
        f'<div class="row">{tokens}</div></div></div>'
    )


def _image(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _token(token: Token, said: str) -> str:
    text = escape(visible(token.text))
    if token.colour is None:
        return f'<span class="token">{text}</span>'
    lines = "".join(f'<span class="said">{escape(line)}</span>' for line in said.splitlines())
    cut = " cut" if token.cut else ""
    return f'<span class="token label{cut}" style="background:{COLOURS[token.colour]}">{text}{lines}</span>'
