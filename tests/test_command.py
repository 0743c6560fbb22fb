"""The command `stvsr`: tools by name, help without anything heavy, the same tools as by `python -m`."""

import argparse
import importlib
import importlib.metadata
import os
import pathlib
import signal
import subprocess
import sys
import tomllib

import pytest

import stvsr_jax
from stvsr_jax import command, command_line
from tests.limits import HANG

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = (
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "av",
    "cv2",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
    "gradio",
    "PIL",
)


def run_python(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=HANG,
    )


def test_help_of_every_command_imports_nothing_heavy():
    code = f"""if True:
        import contextlib, io, sys
        from stvsr_jax import command
        asked = [[], ["--version"], ["--help"], ["no_such"]] + [[name, "--help"] for name in command.TOOLS]
        for arguments in asked:
            print(command.main(arguments), *arguments)
        with contextlib.suppress(SystemExit):  # of absl
            command.main(["train", "--help"])
        print("heavy:", [name for name in {HEAVY} if name in sys.modules])
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "heavy: []"
    assert f"stvsr {stvsr_jax.__version__}" in lines and "2 no_such" in lines
    for name in command.TOOLS:
        assert f"0 {name} --help" in lines
    for name in command.NAMES:
        assert any(line.startswith(f"usage: stvsr {name} ") for line in lines), name


@pytest.mark.parametrize("name", command.TOOLS)
def test_tool_is_the_one_that_python_m_runs(name, monkeypatch):
    """The function that a command runs is called with what its parser gives."""
    module, _, function = command.TOOLS[name].work.partition(":")
    if module.startswith("demo"):
        pytest.importorskip("gradio", reason="the page is an extra")
    module, seen = importlib.import_module(f"stvsr_jax.{module}"), []
    monkeypatch.setattr(command_line, "run", lambda parser, work, argv: seen.append((parser, work)))
    module.main([])
    command.main([name])
    (ours, work), (theirs, lazy) = seen
    assert work is getattr(module, function)
    assert ours.prog.startswith("python -m stvsr_jax.") and theirs.prog == f"stvsr {name}"
    helps = [parser.format_help().replace(parser.prog, "").split() for parser in (ours, theirs)]
    assert helps[0] == helps[1]
    monkeypatch.setattr(module, function, lambda args: (name, args))
    assert lazy("parsed") == (name, "parsed")


def find_parsers():
    for name, tool in command.TOOLS.items():
        yield importlib.import_module(f"stvsr_jax.parsers.{tool.parser}").make_parser(f"stvsr {name}")


def test_help_lists_the_names_that_a_flag_takes():
    found = 0
    for parser in find_parsers():
        for action in parser._actions:
            if hasattr(action.type, "list_names"):
                shown = f"{action.metavar} {action.help}"
                missing = [name for name in action.type.list_names() if name not in shown]
                assert not missing, (parser.prog, action.dest)
                found += 1
    assert found > 8


def test_flags_are_written_out():
    """An abbreviation would mean something else once another flag begins alike."""
    for parser in find_parsers():
        assert not parser.allow_abbrev, parser.prog


def test_weights_are_those_of_checkpoints():
    from stvsr_jax.checkpoint import WEIGHTS

    found = [action.choices for p in find_parsers() for action in p._actions if action.dest == "weights"]
    assert found[0] == WEIGHTS and len(found) > 2  # one is the file that is converted


def test_help_of_evaluate_lists_the_baselines():
    from stvsr_jax.evaluation.baselines import BASELINES
    from stvsr_jax.parsers.evaluate import make_parser

    assert [name for name in BASELINES if name not in make_parser("x").format_help()] == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("upscal", "upscale"), ("trian", "train"), ("export_", "export"), ("eval", "evaluate")],
)
def test_unknown_command_is_told_the_nearest(typed, meant, capsys):
    assert command.main([typed, "x"]) == 2
    error = capsys.readouterr().err
    assert f"no command {typed!r}; did you mean {meant}?" in error and error.count("\n") == 1


def test_wrong_input_is_one_line_of_the_tool(tmp_path, capsys):
    assert command.main(["plot", str(tmp_path / "none")]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path}/none/metrics.csv does not exist; name the directory of a training run\n"
    )
    assert command.main(["plot"]) == 2
    assert "usage: stvsr plot" in capsys.readouterr().err


def test_training_takes_a_config_by_name(tmp_path):
    """From any folder, as of an installed package; a wrong value ends it before the first step."""
    code = "import sys; from stvsr_jax.command import main; sys.exit(main(sys.argv[1:]))"
    done = run_python(
        code, "train", "--config=videoinr:quick", "--config.model.name=edvr", "--workdir", str(tmp_path)
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: model 'edvr' is not one of")


def test_entry_points_exist():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["stvsr"] == "stvsr_jax.command:main"
    for name, value in scripts.items():
        assert callable(importlib.metadata.EntryPoint(name, value, "console_scripts").load())


def test_parsers_are_argparse_and_name_their_program():
    assert all(isinstance(parser, argparse.ArgumentParser) for parser in find_parsers())


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_signals_end_a_command_whose_modules_drop_exceptions(tmp_path, number, name):
    (tmp_path / "stubborn.py").write_text(f"""if True:
        import os, time
        try:
            os.kill(os.getpid(), {int(number)})
            time.sleep(1)
        except BaseException:
            pass
        def run(args):
            print("went on")
    """)
    code = f"""if True:
        import dataclasses
        import stvsr_jax
        from stvsr_jax import command
        stvsr_jax.__path__.append({str(tmp_path)!r})
        command.TOOLS["plot"] = dataclasses.replace(command.TOOLS["plot"], work="stubborn:run")
        command.main(["plot", "run"])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == f"stopped by {name}\n"
