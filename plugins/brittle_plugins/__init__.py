"""The built-in methods, through the same hooks as anyone's; strings, so that listing them imports no method."""

from __future__ import annotations

from brittle_eval import hookimpl


@hookimpl
def brittle_attributions() -> dict[str, str]:
    return {
        "actsvd": "brittle_plugins.actsvd:ActSVD",
        "magnitude": "brittle_plugins.magnitude:Magnitude",
        "prompt-ends": "brittle_plugins.prompt_ends:PromptEnds",
        "prompt-states": "brittle_plugins.prompt_states:PromptStates",
        "random": "brittle_plugins.random:Random",
        "snip": "brittle_plugins.snip:Snip",
        "unit-variance": "brittle_plugins.unit_variance:UnitVariance",
        "wanda": "brittle_plugins.wanda:Wanda",
    }


@hookimpl
def brittle_isolations() -> dict[str, str]:
    return {
        "band": "brittle_plugins.band:Band",
        "bottom": "brittle_plugins.bottom:Bottom",
        "bottom-mass": "brittle_plugins.bottom_mass:BottomMass",
        "bottom-ranks": "brittle_plugins.bottom_ranks:BottomRanks",
        "contrast": "brittle_plugins.contrast:Contrast",
        "direction": "brittle_plugins.direction:Direction",
        "four-way": "brittle_plugins.four_way:FourWay",
        "orthogonal": "brittle_plugins.orthogonal:Orthogonal",
        "heads": "brittle_plugins.heads:Heads",
        "n-m": "brittle_plugins.n_m:NM",
        "probed-heads": "brittle_plugins.probed_heads:ProbedHeads",
        "set-difference": "brittle_plugins.set_difference:SetDifference",
        "top": "brittle_plugins.top:Top",
        "top-outside": "brittle_plugins.top_outside:TopOutside",
        "top-ranks": "brittle_plugins.top_ranks:TopRanks",
    }


@hookimpl
def brittle_modifications() -> dict[str, str]:
    return {
        "ablate": "brittle_plugins.ablate:Ablate",
        "ablate-stream": "brittle_plugins.ablate_stream:AblateStream",
        "adapter": "brittle_plugins.adapter:Adapter",
        "add": "brittle_plugins.add:Add",
        "extrapolate": "brittle_plugins.extrapolate:Extrapolate",
        "finetune": "brittle_plugins.finetune:Finetune",
        "keep": "brittle_plugins.keep:Keep",
        "merge": "brittle_plugins.merge:Merge",
        "patch": "brittle_plugins.patch:Patch",
        "perturb": "brittle_plugins.perturb:Perturb",
        "quantize": "brittle_plugins.quantize:Quantize",
        "restore": "brittle_plugins.restore:Restore",
        "scale": "brittle_plugins.scale:Scale",
        "rewind": "brittle_plugins.rewind:Rewind",
        "safe-lora": "brittle_plugins.safe_lora:SafeLoRA",
        "steer": "brittle_plugins.steer:Steer",
        "transplant": "brittle_plugins.transplant:Transplant",
    }


@hookimpl
def brittle_judges() -> dict[str, str]:
    return {
        "causal-lm": "brittle_plugins.judge_causal:CausalLM",
        "endpoint": "brittle_plugins.judge_endpoint:Endpoint",
        "gcg": "brittle_plugins.judge_gcg:GCG",
        "refusal": "brittle_plugins.judge_refusal:Refusal",
        "sequence-classification": "brittle_plugins.judge_classifier:SequenceClassification",
        "wei2024": "brittle_plugins.judge_wei2024:Wei2024",
        "wei2024-paper": "brittle_plugins.judge_wei2024_paper:Wei2024Paper",
    }
