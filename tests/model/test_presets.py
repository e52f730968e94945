"""The numbers that the guide promises, and the table that shows them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from embervlm import EmberVLM
from embervlm.errors import UserError
from embervlm.model.parameters import format_table, param_table
from embervlm.model.presets import PRESETS, get_preset


def test_the_default_student_has_37m_parameters_and_trains_23m() -> None:
    """The guide's two numbers; RepViT-M1.5 frozen, a projector of about two million."""
    model = EmberVLM.from_preset()
    rows = {row.part: row for row in param_table(model)}
    assert 36e6 < rows["total"].parameters < 38e6
    assert 22.5e6 < rows["total"].trainable < 23.5e6
    assert 13.5e6 < rows["vision"].parameters < 13.7e6 and rows["vision"].trainable == 0
    assert 1.9e6 < rows["projector"].parameters == rows["projector"].trainable < 2.2e6
    parts = [row for name, row in rows.items() if name != "total"]
    assert sum(row.parameters for row in parts) == rows["total"].parameters
    text = model.config.text_config
    assert (text.n_layer, text.n_embd, text.n_positions, text.vocab_size) == (6, 384, 1024, 25_605)


def test_the_tiny_student_is_all_open(tiny: EmberVLM) -> None:
    total = param_table(tiny)[-1]
    assert 0.8e6 < total.parameters == total.trainable < 1.3e6


def test_the_table_prints_every_part(tiny: EmberVLM) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(format_table(param_table(tiny)))
    for word in ("vision", "projector", "language model", "total", f"{tiny.num_parameters():,}"):
        assert word in out.getvalue()


def test_presets_are_not_changed_by_their_models() -> None:
    fields = PRESETS["tiny"].config_fields(unfreeze_vision=1)
    fields["vision"]["args"]["depth"].append(9)
    assert PRESETS["tiny"].config["vision"]["args"]["depth"] == [1, 1, 2]
    assert PRESETS["tiny"].config["unfreeze_vision"] == -1


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="37m, tiny.*did you mean 'tiny'"):
        get_preset("tini")
