"""The card of a set of weights: what it was trained on, how, how well it does, and what it is bad at.

It is written from facts, a JSON object:

    {
      "summary": "Zooming Slow-Mo for clean sources.",
      "licence": "Apache-2.0",
      "data": [{"name": "...", "amount": "21,458 frames", "licence": "CC0", "source": "https://..."}],
      "recipe": ["configs/zooming_slowmo.py with dtype bfloat16", "one cosine cycle from 4e-4"],
      "hardware": "two H200",
      "steps": 15500,
      "hours": 0.26,
      "scores": [{"data": "Vid4", "protocol": "zsm", "PSNR-Y": 25.39, "SSIM-Y": 0.7521}],
      "weaknesses": ["Text below ten pixels."]
    }

Entries of `data` and `scores` become rows of tables; their keys are the columns. Each entry of `data` needs `name` and
`licence`, each of `scores` needs `data` and `protocol`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stvsr_jax import models
from stvsr_jax.weights.files import Description

_KINDS = {
    "summary": str,
    "licence": str,
    "data": list,
    "recipe": list,
    "hardware": str,
    "steps": int,
    "hours": (int, float),
    "scores": list,
    "weaknesses": list,
}
_ROW_KEYS = {"data": ("name", "licence"), "scores": ("data", "protocol")}


def check_facts(facts: Any) -> None:
    """Raises ValueError unless every fact is there, of its type, and not empty."""
    if not isinstance(facts, dict):
        raise ValueError("the facts of a card must be a JSON object")
    if differing := sorted(set(facts) ^ set(_KINDS)):
        raise ValueError(f"the keys {differing} are missing or unknown; known are {list(_KINDS)}")
    for key, kind in _KINDS.items():
        value = facts[key]
        if not isinstance(value, kind) or isinstance(value, bool) or value in ("", []):
            raise ValueError(f"{key}={value!r} must be a {_name_of(kind)}, and not empty")
    for key in ("recipe", "weaknesses"):
        if not all(isinstance(line, str) and line for line in facts[key]):
            raise ValueError(f"{key}={facts[key]!r} must be strings")
    for key, columns in _ROW_KEYS.items():
        for row in facts[key]:
            if not isinstance(row, dict) or not all(row.get(column) for column in columns):
                raise ValueError(f"{key}: {row!r} must be an object with the keys {list(columns)}")


def render(description: Description) -> str:
    """Returns the card, Markdown."""
    facts = description.facts
    network = models.contract_of(description.network)
    megabytes = description.parameters * {"float16": 2, "float32": 4}[description.dtype] / 1e6
    # JSON has no tuples: the card of a set that was read back is the same.
    fields = json.loads(json.dumps(dict(description.fields)))
    sizes = ", ".join(f"{key} {value}" for key, value in fields.items())
    parts = [
        f"# {description.name}",
        facts["summary"],
        f"* **Network**: [{network.title}](https://arxiv.org/abs/{network.paper}) "
        f"({sizes}), {description.parameters:,} parameters, {description.dtype}, {megabytes:.1f} MB\n"
        f"* **Training**: {facts['steps']:,} steps, {facts['hours']:g} hours on {facts['hardware']}\n"
        f"* **Licence of the weights**: {facts['licence']}\n"
        f"* **SHA-256 of the parameters' file**: `{description.sha256}`",
        "## Scores",
        make_table(facts["scores"]),
        "## What it is bad at",
        _make_list(facts["weaknesses"]),
        "## Data",
        make_table(facts["data"]),
        "## Recipe",
        _make_list(facts["recipe"]),
        "## Use",
        "With stvsr_jax, in Python (`SET`: a name that ships with it, a path, or `hf://USER/REPO`) and on the "
        "command line:",
        "```python\n"
        "from stvsr_jax.inference.predictor import Predictor\n\n"
        'network = Predictor.from_pretrained("SET")\n'
        "```",
        "```bash\npython -m stvsr_jax.inference in.mp4 out.mp4 --checkpoint SET\n```",
    ]
    return "\n\n".join(parts) + "\n"


def make_header(description: Description) -> str:
    """Returns the YAML block with which the Hugging Face hub files a card."""
    tags = ["jax", "flax", "video-super-resolution", "super-resolution", "frame-interpolation"]
    tags.append(description.network.replace("_", "-"))
    lines = [
        "library_name: stvsr_jax",
        f"license: {json.dumps(description.facts['licence'].lower())}",
        "pipeline_tag: video-to-video",
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in tags),
    ]
    return "\n".join(["---", *lines, "---", "", ""])


def make_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table with a column for each key that a row has, in the order of their first use."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_escape(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _make_list(lines):
    return "\n".join(f"* {line}" for line in lines)


def _escape(value):
    return str(value).replace("|", "\\|").replace("\n", " ")


def _name_of(kind):
    return {str: "string", list: "list", int: "whole number"}.get(kind, "number")
