"""`--explain`: numbers and marks that a person can trust."""

from __future__ import annotations

import math

import pytest
import torch

from embervlm import EmberVLM
from embervlm.console import console
from embervlm.model.explain import SHOWN, Position, positions, print_positions
from embervlm.model.tokenizer import PAD


def test_entropy_rest_and_rank_are_those_of_the_distribution(tiny: EmberVLM) -> None:
    tokenizer = tiny.processor.tokenizer
    size = len(tokenizer)
    row = torch.full((size,), -torch.inf)
    row[:8] = 0.0  # eight tokens alike
    row[20] = math.log(8)  # as likely as all of them
    even, sure = positions([row, torch.eye(size)[3] * 1e4], [4, 3], tokenizer)
    assert even.entropy == pytest.approx(math.log(2) + math.log(8) / 2)
    assert even.likeliest[0][1] == pytest.approx(0.5) and even.rest == pytest.approx(0.25)
    assert even.rank == 2 and even.said[1] == pytest.approx(1 / 16)
    assert sure.rank == 1 and sure.entropy == 0 and sure.rest == 0


def test_what_was_drawn_is_marked_and_lines_stay_whole(
    tiny: EmberVLM, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a narrow terminal a table would be squeezed until no token can be read; brackets are not markup."""
    monkeypatch.setattr(console, "width", 40)
    likeliest = ((b" [bold]", 0.6), (b"\xe4", 0.2), (None, 0.1), (b" a", 0.05), (b" b", 0.0004))
    print_positions([Position((b" a", 0.05), 4, likeliest, 1.0), Position((None, 1.0), 1, likeliest[:SHOWN], 0.0)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 4 and lines[0].endswith("1 of 2 were drawn though another was likelier (!)")
    first = lines[2].split()
    assert first[:6] == ["1", "'", "a'", "5.0%", "4!", "1.00"]
    for told in ("' [bold]' 60.0%", r"'\xe4' 20.0%", "(end) 10.0%", "' b' <0.1%"):
        assert told in lines[2]
    assert "!" not in lines[3] and "(end)" in lines[3] and "100%" in lines[3]


def test_control_tokens_are_no_alternative(tiny: EmberVLM) -> None:
    tokenizer = tiny.processor.tokenizer
    row = torch.zeros(len(tokenizer))
    row[tokenizer.convert_tokens_to_ids(PAD)] = -torch.inf
    (found,) = positions([row], [0], tokenizer)
    assert sum(p for _, p in found.likeliest) == pytest.approx(SHOWN / (len(tokenizer) - 1))
