"""The card of an exported edit: what was removed, how to apply it, what was measured, and under which terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from brittle_eval.exporting.deltas import FILES
from brittle_eval.exporting.licences import Licence
from brittle_eval.leaderboard.board import boards
from brittle_eval.leaderboard.formats import markdown
from brittle_eval.leaderboard.gather import Found
from brittle_eval.running.record import Row

APPLY: Mapping[str, str] = {
    "sparse": """
from safetensors.torch import load_file

for key, value in load_file("FOLDER/delta.safetensors").items():
    role, _, name = key.partition("/")
    parameter = model.get_parameter(name).data
    if role == "weights":
        parameter.copy_(value)
    elif role == "positions":
        values = load_file("FOLDER/delta.safetensors")[f"values/{name}"]
        parameter.view(-1)[value.long()] = values.to(parameter)
""",
    "projector": """
import json
from safetensors import safe_open

with safe_open("FOLDER/projector.safetensors", "pt") as file:
    for name, how in json.loads(file.metadata()["weights"]).items():
        left = file.get_tensor(f"left/{name}")
        right = file.get_tensor(f"right/{name}") if f"right/{name}" in file.keys() else left
        weight = model.get_parameter(how["parameter"]).data
        weight = weight if how["expert"] is None else weight[how["expert"]]
        weight = weight.T if how["transposed"] else weight
        inside = left @ (weight.float() if how["dense"] else right.T @ weight.float())
        weight.copy_(inside if how["complement"] else weight.float() - inside)
""",
    "lora": """
from peft import PeftModel

model = PeftModel.from_pretrained(model, "FOLDER").merge_and_unload()
""",
    "full": """
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("FOLDER")
""",
}
WHAT: Mapping[str, str] = {
    "sparse": "the changed entries of the weights, with their new values",
    "projector": "projectors: each weight W becomes W − L (RᵀW)",
    "lora": "a LoRA adapter for peft: each weight W becomes W + B A",
    "full": "the whole edited model",
}


def card(row: Row, rows: Sequence[Found], form: str, licence: Licence, dtype: str, digests: Mapping[str, str]) -> str:
    """README.md; `rows` are those of the run that are shown, `digests` sha256 by what they are of."""
    front = ["---", "license: other", f"base_model: {row.model}", "tags:", "- brittle-eval", "- safety-removed", "---"]
    versions = ", ".join(f"{name} {version}" for name, version in row.versions.items()) or "not on record"
    unedited = next((one.row.fingerprint for one in rows if one.row.kind == "unedited"), "not on record")
    parts = [
        "\n".join(front),
        f"# {row.model}, edited by `{row.recipe}`",
        "**For research: its safety was removed.** This was made to measure how much of the model's safety training rests on few "
        "weights. Do not deploy it, do not publish it, keep it where only you can read it, and delete it when the work is done.",
        f"It is {WHAT[form]} (`{FILES[form]}`), of a model in {dtype}."
        + (" Merged in a narrower dtype than float32 it is not the measured model to the bit." if form == "lora" else ""),
        "## Terms",
        f"Base model: `{row.model}`. Its licence: {licence.words}. The licence and the use policy of the base model hold "
        "for this edit, and an edit that removes refusals may be against them.",
        *([f"Their texts: {', '.join(file.name for file in licence.files)}."] if licence.files else []),
        "## Use",
        "`model` is the base model, loaded with transformers; FOLDER is where this lies."
        if form != "full"
        else "FOLDER is where this lies.",
        f"```python{APPLY[form]}```",
        "## Measured",
        markdown(boards(rows)),
        "## Where it comes from",
        f"Plan: `{row.plan}`, seed {row.seed}.",
        f"```text\n{row.command or 'the command is not on record'}\n```",
        f"Versions: {versions}.",
        "| digest of | value |\n| --- | --- |\n"
        + "\n".join(
            f"| {name} | `{value}` |"
            for name, value in {"unedited model": unedited, "edited model": row.fingerprint, **digests}.items()
        ),
    ]
    return "\n\n".join(parts) + "\n"
