"""The package's imports go one way, and every module says what it holds. Read from the source alone."""

import ast
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "stvsr_jax"
FILES = sorted(path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py"))

# Where a command line starts, and the one module below that must mark absl's flags as parsed:
# grain's worker processes read them.
FLAG_READERS = ("main.py", "config_flag.py", "data/benchmark.py", "data/pipeline.py")

TESTS = pathlib.Path(__file__).parent

# See the style of the code: around 130 lines, at most these.
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 120

# Modules of which the test has another name: it takes them through what uses them.
TESTED_ELSEWHERE = {
    "data/builders/frame_builder.py": "data/test_prepare.py",
    "data/builders/records.py": "data/test_prepare.py",
    "data/builders/shards.py": "data/test_prepare.py",
    "data/clip.py": "data/test_sources.py",
    "demo/handlers.py": "demo/test_page.py",
    "inference/command.py": "inference/test_main.py",
    "inference/estimate.py": "inference/test_main.py",
    "inference/request.py": "inference/test_main.py",
    "ops/mosaic/lane.py": "ops/sine_mlp/test_api.py",
    "ops/mosaic/layout.py": "ops/sine_mlp/test_api.py",
    "ops/mosaic/points.py": "ops/sine_mlp/test_api.py",
    "ops/mosaic/points_interpreted.py": "ops/sine_mlp/test_api.py",
    "ops/mosaic/private.py": "ops/test_private_names.py",
    "ops/mosaic/windows.py": "ops/conv/test_mosaic.py",
    "ops/conv/mosaic_problem.py": "ops/conv/test_mosaic.py",
    "training/loop.py": "training/test_train.py",
    "training/run.py": "training/test_train.py",
    "video/errors.py": "data/test_sources.py",
    "video/index.py": "data/test_video_file.py",
    "video/random_reader.py": "data/test_video_file.py",
}

# Packages that most runs never need.
HEAVY = ("torch", "cv2", "libtpu", "tensorflow", "matplotlib", "huggingface_hub", "flatbuffers")

# What code says that does one thing on one device and another on another.
DEVICE_WORDS = (
    "prefers_stacks",
    "is_for_gpu",
    "allows_kernels",
    r"count_\w*sms",
    "default_backend",
    "device_kind",
    r"jax\.devices",
    "platform_dependent",
    r"\.platform\b",
    r"\bcuda\b",
    "[Hh]opper",
)

# Literal dicts that choose something else by words that networks are called by, too: the networks themselves, and
# recipes of training windows.
NAMED_ALIKE = ("MODELS", "RECIPES")


def imported_modules(source, file):
    """Yields the full name of each import, also inside functions: `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = file.split("/")[: -node.level] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_below(name, *modules):
    return any(name == module or name.startswith(module + ".") for module in modules)


def files_of(*parts):
    """Returns the files of sub-packages ('ops') and modules ('bicubic.py')."""
    roots = tuple(f"stvsr_jax/{part}" if part.endswith(".py") else f"stvsr_jax/{part}/" for part in parts)
    return [file for file in FILES if file.startswith(roots)]


def violations(files, is_wrong):
    """Returns 'file imports module' for each import of `files` that is wrong."""
    found = []
    for file in files:
        source = (PACKAGE.parent / file).read_text()
        found += [f"{file} imports {name}" for name in imported_modules(source, file) if is_wrong(name)]
    return found


def only(*parts):
    """Returns whether a name is of this package and outside `parts`."""
    allowed = [f"stvsr_jax.{part}" for part in parts]
    return lambda name: is_below(name, "stvsr_jax") and not is_below(name, *allowed)


def find_networks():
    """Returns {name: class} of the literal dict `models.MODELS`."""
    tree = ast.parse((PACKAGE / "models" / "__init__.py").read_text())
    (networks,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODELS"
    )
    return {key.value: ast.unparse(value) for key, value in zip(networks.keys, networks.values, strict=True)}


def find_branches(source, networks):
    """Yields the code that does one thing for one network and another for another.

    That is: a comparison with a network's name or class, a table or a lookup by name, a `match` case, isinstance.
    """

    def is_network(node):
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return any(map(is_network, node.elts))
        is_name = isinstance(node, ast.Constant) and node.value in networks
        return is_name or ast.unparse(node).rpartition(".")[2] in networks.values()

    nodes = list(ast.walk(ast.parse(source)))
    assigned = [node for node in nodes if isinstance(node, (ast.Assign, ast.AnnAssign))]
    other = [node.value for node in assigned if _target_of(node) in NAMED_ALIKE]
    for node in nodes:
        asked = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict) and node not in other:
            asked = [key for key in node.keys if key]
        elif isinstance(node, ast.Subscript):
            asked = [node.slice]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".get", ".startswith")):
            asked = node.args
        if any(map(is_network, asked)):
            yield ast.unparse(node)


def _target_of(node):
    return ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])


def test_imports_are_found_at_any_depth_and_in_any_form():
    source = (
        "import os, jax.numpy as jnp\n"
        "from stvsr_jax import ops\n"
        "from . import layers\n"
        "from ..ops.resize import imresize\n"
        "def f():\n"
        "    from absl import flags\n"
    )
    assert sorted(imported_modules(source, "stvsr_jax/models/deform.py")) == [
        "absl.flags",
        "jax.numpy",
        "os",
        "stvsr_jax.models.layers",
        "stvsr_jax.ops",
        "stvsr_jax.ops.resize.imresize",
    ]


@pytest.mark.parametrize(
    "part",
    [
        "ops",
        "models",
        "video",
        "data",
        "runtime",
        "training",
        "inference",
        "evaluation",
        "weights",
        "bicubic.py",
    ]
    + ["files.py", "locks.py", "stages.py"],
)
def test_parts_exist(part):
    assert files_of(part)


def test_ops_import_only_ops_and_bicubic():
    assert not violations(files_of("ops"), only("ops", "bicubic"))


def test_models_import_only_ops_and_models():
    assert not violations(files_of("models"), only("ops", "models"))


def test_weights_import_only_models_checkpoints_files_weights_and_the_command_line():
    assert not violations(
        files_of("weights"), only("models", "checkpoint", "files", "weights", "command_line")
    )


def test_runtime_imports_only_ops_runtime_and_modules_of_files_stages_and_command_lines():
    is_wrong = only("ops", "files", "stages", "runtime", "command_line")
    assert not violations(files_of("runtime"), lambda name: name != "stvsr_jax" and is_wrong(name))


def test_data_imports_only_data_video_and_modules_of_files_stages_and_command_lines():
    allowed = only(
        "data", "video", "bicubic", "files", "locks", "stages", "command_line", "config_flag", "parsers"
    )
    assert not violations(files_of("data"), allowed)


def test_parsers_import_only_what_is_light():
    assert not violations(
        files_of("parsers"),
        only("parsers", "command_line", "stages", "weights.shipped", "evaluation.protocols"),
    )
    light = files_of(
        "parsers",
        "weights/shipped.py",
        "evaluation/protocols.py",
        "command_line.py",
        "command.py",
        "stages.py",
    )
    libraries = ("jax", "flax", "numpy", "av", "PIL", "tensorflow_datasets", "cv2", "absl", "ml_collections")
    assert not violations(light, lambda name: is_below(name, *libraries))


def test_video_imports_only_video_files_and_stages():
    assert not violations(files_of("video"), only("video", "files", "locks", "stages"))
    assert not violations(files_of("bicubic.py", "files.py", "locks.py", "stages.py"), only("bicubic"))


def test_data_and_video_never_import_jax():
    files = files_of("data", "video", "bicubic.py", "files.py", "locks.py", "stages.py")
    assert not violations(files, lambda name: is_below(name, "jax", "jaxlib", "flax", "optax", "orbax"))


def test_inference_and_evaluation_never_import_training():
    files = files_of("inference", "evaluation", "runtime", "weights")
    assert not violations(files, lambda name: is_below(name, "stvsr_jax.training"))


def test_nothing_imports_evaluation():
    below = [file for file in FILES if not file.startswith(("stvsr_jax/evaluation/", "stvsr_jax/parsers/"))]
    assert not violations(below, lambda name: is_below(name, "stvsr_jax.evaluation"))


def test_only_command_lines_and_the_data_pipeline_import_flags():
    below = [file for file in FILES if not file.endswith(tuple(f"/{reader}" for reader in FLAG_READERS))]
    assert not violations(below, lambda name: is_below(name, "absl.flags", "absl.app"))


def test_nothing_imports_tensorflow():
    assert not violations(FILES, lambda name: is_below(name, "tensorflow"))


def test_only_one_module_opens_media_files():
    others = [file for file in FILES if file != "stvsr_jax/video/media.py"]
    assert [file for file in others if "av.open(" in (PACKAGE.parent / file).read_text()] == []


@pytest.mark.parametrize(
    "branch",
    [
        "name == 'videoinr'",
        "'videoinr' != spec.name",
        "name in ('zooming_slowmo', 'other')",
        "{'zooming_slowmo': 4, 'videoinr': 2}",
        "sizes['videoinr']",
        "sizes.get('videoinr')",
        "name.startswith('videoinr')",
        "isinstance(model, models.VideoINR)",
        "isinstance(model, (int, ZoomingSlowMo))",
        "type(model) is VideoINR",
    ],
)
def test_branches_on_networks_are_found(branch):
    assert list(find_branches(f"def f():\n    return g({branch})", find_networks())) == [branch]
    case = "match name:\n    case 'videoinr':\n        pass"
    assert list(find_branches(case, find_networks()))


def test_what_differs_between_networks_is_asked_of_their_contract():
    networks = find_networks()
    assert set(networks) == {"zooming_slowmo", "videoinr"}
    found = [
        f"{file}: {code}"
        for file in FILES
        for code in find_branches((PACKAGE.parent / file).read_text(), networks)
    ]
    assert not found


def test_only_the_list_of_networks_imports_them():
    modules = [f"stvsr_jax.models.{name}" for name in find_networks()]
    others = [file for file in FILES if file != "stvsr_jax/models/__init__.py"]
    assert not violations(others, lambda name: is_below(name, *modules))


def is_vendors(name):
    """Whether a module is of one device's compiler, or a heavy one that most users never need."""
    return is_below(name, "jax.experimental.pallas", "jax.experimental.mosaic", "jaxlib", *HEAVY)


def imports_at_the_top(source, file):
    """Yields as `imported_modules` what is imported with the module itself."""
    tree = ast.parse(source)
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return imported_modules("\n".join(map(ast.unparse, top)), file)


def is_kernel(file):
    """Whether a file is a back end for one vendor's devices, or a piece of one."""
    folder, _, name = file.rpartition("/")
    is_piece = folder == "stvsr_jax/ops/mosaic"
    return is_piece or (
        folder.startswith("stvsr_jax/ops/")
        and name.startswith(("mosaic", "triton", "tpu"))
        and folder.count("/") > 1
    )


def test_vendors_modules_are_imported_where_they_are_used():
    found = [
        f"{file} imports {name}"
        for file in FILES
        if not is_kernel(file)
        for name in imports_at_the_top((PACKAGE.parent / file).read_text(), file)
        if is_vendors(name) or is_kernel(name.replace(".", "/") + ".py")
    ]
    assert not found


def test_models_leave_the_device_to_ops():
    found = [
        f"{file}: {word}"
        for file in files_of("models")
        for word in DEVICE_WORDS
        if re.search(word, (PACKAGE.parent / file).read_text())
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "ops.devices.is_for_gpu()",
        "jax.default_backend() == 'gpu'",
        "prefers_stacks(dtype)",
        "count_mosaic_sms()",
    ],
)
def test_branches_on_devices_are_found(code):
    assert any(re.search(word, code) for word in DEVICE_WORDS)


@pytest.mark.parametrize("file", FILES)
def test_file_and_its_functions_are_short(file):
    source = (PACKAGE.parent / file).read_text()
    assert len(source.splitlines()) <= MOST_LINES
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    long = [f.name for f in functions if f.end_lineno - f.lineno + 1 > MOST_LINES_OF_A_FUNCTION]
    assert not long


def test_of_file(file):
    """Returns the test of a file of the package, below tests/."""
    part = file.removeprefix("stvsr_jax/")
    if part in TESTED_ELSEWHERE:
        return TESTED_ELSEWHERE[part]
    folder, _, name = part.rpartition("/")
    own = pathlib.PurePath(folder, f"test_{name.removesuffix('.py').strip('_')}.py").as_posix()
    if folder == "parsers" and not (TESTS / own).exists():
        return "test_command.py"  # which runs all commands
    if folder.startswith("ops/") and not (TESTS / own).exists():
        return f"{folder}/test_api.py"  # the battery that all back ends of an op pass
    return own


test_of_file.__test__ = False


@pytest.mark.parametrize("file", [file for file in FILES if not file.endswith("__init__.py")])
def test_file_has_its_test(file):
    assert (TESTS / test_of_file(file)).is_file()


def test_what_is_tested_elsewhere_is_there_and_has_no_test_of_its_own():
    for file in TESTED_ELSEWHERE:
        folder, _, name = file.rpartition("/")
        assert (PACKAGE / file).is_file()
        assert not (TESTS / folder / f"test_{name}").exists(), file


@pytest.mark.parametrize("file", FILES)
def test_module_has_a_docstring(file):
    assert ast.get_docstring(ast.parse((PACKAGE.parent / file).read_text()))
