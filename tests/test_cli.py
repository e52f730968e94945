"""The command line: verbs, help, scripts, and how failures look to a person."""

from __future__ import annotations

import errno
import os
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from embervlm import cli
from embervlm.errors import UserError
from embervlm.files import write_whole
from embervlm.options import flags_of

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}  # as if installed
SCRIPTS = {
    "train_all": "train",
    "cache_teacher_outputs": "cache build",
    "evaluate": "evaluate",
    "download_teacher": "download-teacher",
    "test_teacher": "test-teacher",
    "verify_distillation": "verify",
    "inspect_batch": "inspect",
    "test_inference": "infer",
}
GUIDE_FLAGS = {
    "train_all": "stages resume_from output_dir wandb_project wandb_run_name disable_distillation batch_size epochs"
    " learning_rate distillation_alpha distillation_temperature teacher_model gradient_accumulation_steps warmup_steps"
    " save_steps eval_steps fp16 max_length gradient_clip use_cached_teacher_outputs sft_weight do_sample top_p",
    "cache_teacher_outputs": "teacher_model dataset_path output_dir batch_size",
    "evaluate": "stage checkpoint benchmarks split output_file do_sample top_p",
    "download_teacher": "model",
    "test_teacher": "model",
    "verify_distillation": "stage",
    "inspect_batch": "stage num_batches",
    "test_inference": "checkpoint image prompt",
}


def run_script(name: str, *argv: str) -> int:
    """As `python scripts/NAME.py ARGV` does, in this process."""
    before = sys.argv
    sys.argv = [name, *argv]
    try:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    raise AssertionError("a script must tell its exit code")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> list:
    """The verb `toy` runs nothing but the function that a test puts into the list."""
    body: list = []
    monkeypatch.setattr(cli.Verb, "load_run", lambda self: body[0])
    return body


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_has_settings_and_a_function(name: str) -> None:
    """A verb whose module was renamed would only fail when somebody uses it."""
    assert fields(cli.VERBS[name].load_settings())
    assert callable(cli.VERBS[name].load_run())


@pytest.mark.parametrize("name", cli.VERBS)
def test_help_names_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    said = capsys.readouterr().out
    for flag in flags_of(cli.VERBS[name].load_settings()).values():
        assert f"--{flag.name} " in said
        assert flag.help.split()[0] in said


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"], ["help"]):
        assert cli.main(argv) == 0
        said = capsys.readouterr().out
        assert all(name in said for name in cli.VERBS)


def test_scripts_folder_is_the_guides() -> None:
    assert {path.stem for path in (ROOT / "scripts").glob("*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_its_verb_and_knows_the_guides_flags(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(script, "--help") == 0
    said = capsys.readouterr().out
    assert f"embervlm {SCRIPTS[script]} " in said
    assert all(f"--{flag} " in said for flag in GUIDE_FLAGS[script].split())


@pytest.mark.slow
def test_script_runs_as_a_file_from_anywhere(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train_all.py"), "--no-such-flag"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: There is no flag --no_such_flag")


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_a_persons_mistake_is_one_sentence(verb: list, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(settings: object) -> None:
        raise UserError("no folder [data]; run `embervlm toy`")

    verb.append(fail)
    assert cli.main(["toy"]) == 2
    assert capsys.readouterr().err == "error: no folder [data]; run `embervlm toy`\n"
    assert cli.main(["toy", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_full_disk_is_one_sentence_and_our_mistakes_are_not(verb: list, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "outputs/x")

    verb.append(fail)
    assert cli.main(["toy"]) == 2
    assert capsys.readouterr().err == "error: outputs/x: No space left on device.\n"
    verb[0] = lambda settings: write_whole(Path("/proc/no/report.html"), "")
    assert cli.main(["toy"]) == 2
    assert capsys.readouterr().err == "error: /proc/no: No such file or directory.\n"
    verb[0] = lambda settings: 1 / 0
    with pytest.raises(ZeroDivisionError):
        cli.main(["toy"])


def test_ctrl_c_is_no_traceback(verb: list, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(settings: object) -> None:
        raise KeyboardInterrupt

    verb.append(interrupt)
    assert cli.main(["toy"]) == 130
    assert "Stopped" in capsys.readouterr().err


def test_exit_code_is_the_functions_own(verb: list) -> None:
    verb.append(lambda settings: 1)
    assert cli.main(["toy"]) == 1
    verb[0] = lambda settings: ["not", "a", "code"]
    assert cli.main(["toy"]) == 0


def test_help_does_not_wait_for_torch() -> None:
    """Seconds before the first word, for a list of flags, is where people begin to doubt."""
    code = "import sys; from embervlm import cli; cli.main(['train', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
