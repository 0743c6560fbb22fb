"""The README and docs are true: links lead somewhere, code runs, commands are accepted, files and names exist."""

import argparse
import ast
import functools
import importlib
import importlib.util
import pathlib
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from unittest import mock

import pytest
import yaml

import stvsr_jax
from stvsr_jax import command, command_line, config_flag, models
from stvsr_jax.inference import tile_size
from tests.limits import HANG

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
# Command lines with absl's flags, which are global: what they define is read from their source.
ABSL = ("stvsr_jax.main", "stvsr_jax.data.benchmark")
OWN = {"config"}  # of `config_flag`


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def find_blocks(page, language):
    return [body for name, body in FENCE.findall(read(page)) if name == language]


def find_spans(page):
    return SPAN.findall(FENCE.sub("", read(page)))


def find_anchors(text):
    """Returns the anchors of the headings, as GitHub and mkdocs make them."""
    headings = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_broken_links(text, file, *, root):
    """Returns the relative links of a page that lead to no file below `root` or to no heading of it."""
    broken = []
    for link in LINK.findall(SPAN.sub("", FENCE.sub("", text))):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (file.parent / name).resolve() if name else file
        if not (target.is_relative_to(root) and target.is_file()):
            broken.append(link)
        elif anchor and anchor not in find_anchors(text if target == file else target.read_text("utf-8")):
            broken.append(link)
    return broken


def test_broken_links_are_found(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# One\n```\n# no heading\n```\n## Two: `a`, b\n")
    (tmp_path / "outside.md").write_text("")
    text = "# Here\n[a](b.md) [a\nb](b.md#two-a-b) [c](#here) [d](http://x.y/z) `[e](no.md)`\n```\n[f](no.md)\n```\n"
    text += "[g](no.md) ![h](b.md#no-heading) [i](#nowhere) [j](../outside.md)"
    page = tmp_path / "docs" / "a.md"
    page.write_text(text)
    broken = find_broken_links(text, page, root=tmp_path / "docs")
    assert broken == ["no.md", "b.md#no-heading", "#nowhere", "../outside.md"]


SNIPPET = re.compile(r"""python"? -c (?:"([^"]*)"|'([^']*)')""")
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "launch").glob("*.sh"))


def find_unknown_names(snippet):
    """Returns what a line of Python imports or takes of an imported module and is not there."""
    tree, modules, unknown = ast.parse(snippet), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(
                {alias.asname or alias.name: importlib.import_module(alias.name) for alias in node.names}
            )
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name) and not importlib.util.find_spec(
                    f"{node.module}.{alias.name}"
                ):
                    unknown.append(f"{node.module}.{alias.name}")
                else:
                    value = getattr(module, alias.name, None) or importlib.import_module(
                        f"{node.module}.{alias.name}"
                    )
                    modules[alias.asname or alias.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            if not hasattr(modules[node.value.id], node.attr):
                unknown.append(f"{node.value.id}.{node.attr}")
    return unknown


def test_lines_of_python_in_scripts_and_pages_name_what_exists():
    snippets = [one or other for page in (*PAGES, *SCRIPTS) for one, other in SNIPPET.findall(read(page))]
    assert len(snippets) >= 3
    assert not [name for snippet in snippets for name in find_unknown_names(snippet)]
    assert find_unknown_names("from stvsr_jax.weights import shipped; shipped.no_such()") == [
        "shipped.no_such"
    ]


@every_page
def test_links_lead_somewhere(page):
    root = DOCS if page.startswith("docs/") else ROOT  # the site has no other files
    assert find_broken_links(read(page), ROOT / page, root=root) == []


def test_pages_from_outside_of_docs_are_there_and_lead_nowhere_relative():
    included = [name for page in PAGES for name in re.findall(r'^--8<-- "(.+)"$', read(page), re.M)]
    assert sorted(included) == ["CHANGELOG.md", "CONTRIBUTING.md"]
    for name in included:
        assert [link for link in LINK.findall(read(name)) if "://" not in link] == []


def test_readme_has_at_most_150_lines():
    assert len(read("README.md").splitlines()) <= 150


def test_every_page_is_in_the_navigation_once():
    def files(entry):
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [file for part in parts for file in files(part)]

    navigation = files(yaml.safe_load(read("mkdocs.yml"))["nav"])
    assert sorted(navigation) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_site_is_built_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert built.returncode == 0, built.stderr
    api = (tmp_path / "site" / "api" / "predictor" / "index.html").read_text()
    assert 'id="stvsr_jax.inference.predictor.Predictor.predict"' in api
    assert (tmp_path / "site" / "search" / "search_index.json").is_file()


CODE = {
    block: f"{page}-{number}" for page in PAGES for number, block in enumerate(find_blocks(page, "python"))
}


@pytest.mark.parametrize("block", CODE, ids=CODE.values())
def test_python_runs(block, tmp_path, write_set, monkeypatch):
    write_set(tmp_path / "runs" / "videoinr", "videoinr", "videoinr")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {})


# Commands


def find_commands(page):
    """Returns the commands of a page as lists of words: lines of bash blocks, and code in sentences."""
    lines = [line for block in find_blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += [
        span for span in find_spans(page) if re.match(r"(\w+=\S+ )*(python|bash|launch/|stvsr)\S* ", span)
    ]
    commands = []
    for line in lines:
        words = shlex.split(line, comments=True)
        while words:
            end = next((n for n, word in enumerate(words) if word == "&&" or word.endswith(";")), len(words))
            commands.append([word.rstrip(";") for word in words[: end + 1] if word != "&&"])
            words = words[end + 1 :]
    return [command for command in commands if command]


class ParsedError(Exception):
    """The command line was accepted."""


def capture(monkeypatch, parse):
    """Has every argparse parser call `parse(parser, args)` and stop there."""
    original = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        parse(self, lambda: original(self, args))
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)


def import_tool(module, monkeypatch):
    if module == "stvsr_jax.demo" and importlib.util.find_spec("gradio") is None:
        monkeypatch.setitem(sys.modules, "gradio", mock.MagicMock())
    is_package = importlib.util.find_spec(module).submodule_search_locations is not None
    return importlib.import_module(f"{module}.__main__" if is_package else module)


@functools.cache
def find_absl_flags(module):
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return OWN | {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr.startswith("DEFINE_")
    }


def has_key(config, key):
    for part in key.split("."):
        if not hasattr(config, "keys") or part not in config:
            return False
        config = config[part]
    return True


def load_config(name):
    path, _, variant = config_flag.find(name).partition(":")
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def check_absl(module, words):
    """Raises ValueError if a flag is not defined or a key of the config does not exist."""
    names = find_absl_flags(module)
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    config = None
    for n, word in enumerate(words):
        if word == "--config":
            config = load_config(words[n + 1])
        elif word.startswith("--config."):
            if config is None or not has_key(config, word.removeprefix("--config.")):
                raise ValueError(f"{word} is no key of the config")
        elif word.startswith("--") and word[2:] not in names:
            raise ValueError(f"{module} has no flag {word}")


def check_module(module, words, monkeypatch):
    if module in ABSL:
        check_absl(module, words)
        return
    if module == "stvsr_jax":
        check_stvsr(words or [command.NAMES[0]], monkeypatch)
        return
    if module == "pytest":
        missing = [word for word in words if word.startswith("tests") and not (ROOT / word).exists()]
        assert not missing
        return
    tool = import_tool(module, monkeypatch)
    if not words:  # its name
        return
    with monkeypatch.context() as patch:
        capture(patch, lambda parser, parse: parse())
        try:
            code = tool.main(words)
        except ParsedError:
            return
        raise ValueError(f"python -m {module} {shlex.join(words)} is refused with exit code {code}")


def check_stvsr(words, monkeypatch):
    """Raises an error if arguments are refused; a command's name alone, as in a table, must exist."""
    if len(words) == 1 and words[0] in (*command.NAMES, "COMMAND"):
        return
    if words[0] == "train":
        check_absl("stvsr_jax.main", words[1:])
        return
    words = [command.NAMES[0] if word == "COMMAND" else word for word in words]
    with monkeypatch.context() as patch:
        patch.setattr(command_line, "guard", lambda work: 0)
        if code := command.main(words):
            raise ValueError(f"stvsr {shlex.join(words)} is refused with exit code {code}")


def check_command(words, monkeypatch):
    """Raises an error if a command of this project would not be accepted; passes over those of other programs."""
    variables = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    program, *words = words or [""]
    if program == "bash":
        program, *words = words
    if program.startswith("launch/"):
        script = read(program) + read("launch/settings.sh")
        assert [name for name in variables if not re.search(rf"\b{name}\b", script)] == []
        end = words.index("--") if "--" in words else len(words)
        assert [word for word in words[:end] if word.startswith("--") and word not in script] == []
        if rest := words[end + 1 :]:
            network = variables.get("NETWORK")  # of campaign.sh, which adds its config
            network = "zooming_slowmo" if network == "video" else network
            rest = ["--config", f"configs/{network}.py", *rest] if network else rest
            check_module(variables.get("MODULE", "stvsr_jax.main"), rest, monkeypatch)
    elif program == "stvsr":
        check_stvsr(words, monkeypatch)
    elif re.search(r"python[\d.]*$", program) and words[0] == "-m" and words[1] != "venv":
        check_module(words[1], words[2:], monkeypatch)
    elif re.search(r"python[\d.]*$", program) and words[0].endswith(".py"):
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in read(words[0])] == []
    elif program.endswith("pip"):
        extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
        asked = [
            name for word in words for names in re.findall(r"\[(.+)\]", word) for name in names.split(",")
        ]
        assert [name for name in asked if name not in extras] == []


@pytest.mark.parametrize(
    "line",
    [
        "python -m stvsr_jax.inference in.mp4 out.mp4 --spcae 4",
        "python -m stvsr_jax.evaluation DATA --protocol zms --model DIR --out OUT",
        "python -m stvsr_jax.main --config configs/videoinr.py --config.data.paht=X",
        "python -m stvsr_jax.main --config configs/videoinr.py --wrokdir X",
        "python -m pytest tests/test_no_such_thing.py",
        "python -m stvsr_jax.no_such_tool",
        "stvsr upscal in.mp4 out.mp4",
        "stvsr upscale in.mp4 out.mp4 --spcae 4",
        "stvsr train --config vidoinr",
        "stvsr train --config videoinr --config.data.paht=X",
        "NODSE=2 launch/slurm.sh -- --config configs/videoinr.py",
        "launch/gpus.sh --dry-rnu -- --config configs/videoinr.py",
        "launch/gpus.sh -- --config configs/videoinr.py --config.sede=1",
        "pip install '.[cdua]'",
        "python launch/parameters.py pack runs/zooming_slowmo parts --wieghts ema",
    ],
)
def test_wrong_commands_are_found(line, monkeypatch, capsys):
    with pytest.raises((AssertionError, ValueError, SystemExit, AttributeError, ImportError)):
        check_command(shlex.split(line), monkeypatch)


@every_page
def test_commands_are_accepted(page, monkeypatch):
    for words in find_commands(page):
        check_command(words, monkeypatch)


def test_commands_are_found_in_blocks_and_sentences():
    commands = [command for page in PAGES for command in find_commands(page)]
    assert len(commands) > 60
    assert ["python", "-m", "stvsr_jax.inference", "in.mp4", "out.mp4"] in [c[:5] for c in commands]


# Names


@pytest.fixture
def known_flags(monkeypatch):
    """Returns the flags of all command lines of the package."""
    found = {f"--{name}" for module in ABSL for name in find_absl_flags(module)}
    tools = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "stvsr_jax").rglob("*.py")
        if "command_line.run(" in path.read_text() and "__name__ ==" in path.read_text()
    ]
    assert len(tools) > 10
    with monkeypatch.context() as patch:
        capture(patch, lambda parser, parse: found.update(parser._option_string_actions))
        for tool in tools:
            with pytest.raises(ParsedError):
                import_tool(tool.removesuffix(".__main__"), monkeypatch).main([])
    return found


def test_flags_in_sentences_exist(known_flags):
    configs = [load_config(f"configs/{name}.py") for name in ("videoinr", "zooming_slowmo")]
    scripts = "".join(path.read_text() for path in (ROOT / "launch").iterdir())
    unknown = []
    for page in PAGES:
        for span in find_spans(page):
            flag = re.split(r"[ =]", span)[0]
            if not flag.startswith("--") or flag.startswith("--xla_"):
                continue
            if flag.startswith("--config."):
                is_known = any(has_key(config, flag.removeprefix("--config.")) for config in configs)
            else:
                is_known = flag in known_flags or re.search(rf"{flag}\b", scripts)
            if not is_known:
                unknown.append((page, span))
    assert unknown == []


@every_page
def test_files_that_are_named_exist(page):
    roots = (ROOT, ROOT / "stvsr_jax", ROOT / "stvsr_jax" / "inference")
    names = [name for name in find_spans(page) if re.fullmatch(r"[\w./-]+\.(py|sh)", name)]
    names = [name for name in names if "NAME" not in name and not name.startswith("stvsr_jax/a/")]
    assert [name for name in names if not any((root / name).is_file() for root in roots)] == []


@every_page
def test_names_of_the_package_exist(page):
    names = [f"stvsr_jax.{name}" for name in find_spans(page) if re.fullmatch(r"(ops|models)\.\w+", name)]
    names += re.findall(r"^::: (\S+)$", read(page), re.M)
    for name in names:
        pkgutil.resolve_name(name)


def test_every_kernel_is_described():
    files = (ROOT / "stvsr_jax").rglob("*.py")
    kernels = [path for path in files if re.search(r"(plgpu\.kernel|pallas_call)\(", path.read_text())]
    names = {path.relative_to(ROOT / "stvsr_jax").as_posix() for path in kernels}
    assert len(names) > 5
    assert names <= set(re.findall(r"[\w/]+\.py", read("docs/kernels.md")))


def find_strings():
    """Returns all texts in the package's source."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "stvsr_jax").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return "\n".join(node.value for node in nodes if isinstance(node.value, str))


def test_errors_in_troubleshooting_are_those_of_the_code():
    table = read("docs/troubleshooting.md").partition("## Common errors")[2].partition("\n## ")[0]
    messages = [name for line in table.splitlines() for name in SPAN.findall(line.partition(" | ")[0])]
    parts = [part for name in messages for part in re.split(r" ?\b[XNM]\b ?|\.\.\.|\(|\)|config|=", name)]
    parts = [part.strip(" ,.`:") for part in parts if len(part.strip(" ,.`:")) > 3]
    assert len(messages) > 10 and len(parts) > 15
    strings = find_strings()
    assert [part for part in parts if part not in strings] == []


def test_memory_in_troubleshooting_is_what_chooses_tiles(monkeypatch):
    networks = ("zooming_slowmo", "videoinr")
    text = read("docs/troubleshooting.md")
    frames = re.findall(r"^\| (\d+)x(\d+) \| ([\d.]+) GB \| ([\d.]+) GB \|$", text, re.M)
    for width, height, *sizes in frames:
        expected = [
            int(width) * int(height) * models.contract_of(name).bytes_per_pixel / 1e9 for name in networks
        ]
        assert [float(size) for size in sizes] == pytest.approx(expected, abs=0.051)
    tiles = re.findall(r"^\| (\d+) GiB \| (\d+) \| (\d+) \|$", text, re.M)
    for memory, *sides in tiles:
        monkeypatch.setattr(tile_size, "available_memory", lambda size=int(memory): size * 2**30)
        chosen = [tile_size.choose_tile(name, 4000, 4000) for name in networks]
        assert [int(side) for side in sides] == chosen
    assert len(frames) > 4 and len(tiles) > 4


def test_citation_and_changelog_are_of_this_version():
    assert yaml.safe_load(read("CITATION.cff"))["version"] == stvsr_jax.__version__
    assert f"## {stvsr_jax.__version__}" in read("CHANGELOG.md")
