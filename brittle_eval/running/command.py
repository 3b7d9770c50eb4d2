"""What makes a run again, as a command or a `--config` file, from its configuration: also for runs that no command line began."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

FLAGS = ("stop_when_decided",)
PLAIN = (
    *(
        "model",
        "tasks",
        "preset",
        "condition",
        "controls",
        "batch_size",
        "limit",
        "device",
        "seed",
        "seeds",
        "system_instruction",
    ),
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


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration asks for, by the options of the command line: a `--config` file of the same run."""
    given = {NAMES.get(name, name): value for name, value in config.items()}
    if preset := given.get("preset"):
        given = {name: value for name, value in given.items() if name not in PRESET}
        given["preset"] = preset.partition(" ")[0]  # a configuration has the version behind it
    found = {name: given[name] for name in PLAIN if given.get(name) not in (None, [], {})}
    found |= {_option(name): list(given[name]) for name in REPEATED if given.get(name)}
    found |= {_option(name): True for name in FLAGS if given.get(name)}
    if given.get("merge_system"):
        found["system-role"] = "merge"
    if template := given.get("apply_chat_template"):
        found["apply_chat_template"] = template
    return found


def command_line(config: Mapping[str, Any]) -> str:
    """`brittle-eval run …` as a shell reads it; nothing for a configuration that is no run's."""
    if not config.get("model"):
        return ""
    words = ["brittle-eval", "run"]
    for name, value in options_of(config).items():
        if value is True:
            words.append(f"--{name}")
        elif name == "apply_chat_template":  # its value is optional, so it must not stand apart
            words.append(f"--{name}={value}")
        else:
            repeated = name in map(_option, REPEATED)
            words += [word for one in (value if repeated else [value]) for word in (f"--{name}", _text(one))]
    return shlex.join(words)


def _option(name: str) -> str:
    return name.replace("_", "-") if name.startswith("stop") else name


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return ",".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value)
