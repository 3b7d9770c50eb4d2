"""The command that makes a run again, written from the run's configuration: also for runs that no command line began."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

FLAGS = ("stop_when_decided",)
PLAIN = (
    *("model", "tasks", "preset", "condition", "controls", "batch_size", "limit", "device", "seed", "system_instruction"),
    *("num_fewshot", "pairs", "base", "donor", "judge", "model_args", "gen_kwargs", "metadata"),
)
"""Options with one value: a text, names with commas between them, or key=value,…."""
REPEATED = ("modify", "include_path", "behaviour", "data", "stop_when", "plugin")
NAMES = {"judges": "judge", "behaviours": "behaviour", "plugins": "plugin"}
"""Options of the command line whose name is not that of their field."""
PRESET = (
    *("tasks", "judge", "gen_kwargs", "num_fewshot", "utility_limit", "seed", "metadata"),
    *("apply_chat_template", "system_instruction", "merge_system"),
)
"""What every preset fixes, so that the command need not say it."""
EVALUATION = (
    *("gen_kwargs", "num_fewshot", "apply_chat_template", "system_instruction", "merge_system", "metadata"),
    *("utility_limit", "stop_when_decided"),
)
"""Fields that change what is measured and that no other field of a row tells."""


def of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's configuration (run.json) says for its rows: seed, command and settings."""
    settings = {key: config[key] for key in EVALUATION if config.get(key)}
    return {"seed": config.get("seed") or 0, "command": command_line(config), "settings": settings}


def command_line(config: Mapping[str, Any]) -> str:
    """`brittle-eval run …` as a shell reads it; nothing for a configuration that is no run's."""
    if not config.get("model"):
        return ""
    given = {NAMES.get(name, name): value for name, value in config.items()}
    if preset := given.get("preset"):
        given = {name: value for name, value in given.items() if name not in PRESET}
        given["preset"] = preset.partition(" ")[0]  # a configuration has the version behind it
    words = ["brittle-eval", "run"]
    for name in PLAIN:
        if given.get(name) not in (None, [], {}):
            words += [f"--{name}", _text(given[name])]
    for name in REPEATED:
        for value in given.get(name) or ():
            words += [_option(name), str(value)]
    words += [_option(name) for name in FLAGS if given.get(name)]
    if given.get("merge_system"):
        words += ["--system-role", "merge"]
    if template := given.get("apply_chat_template"):
        words.append("--apply_chat_template" if template is True else f"--apply_chat_template={template}")
    return shlex.join(words)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name.startswith("stop") else f"--{name}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return ",".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value)
