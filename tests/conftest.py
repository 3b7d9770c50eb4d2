"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile("shared-machine", deadline=None, derandomize=True)
settings.load_profile("shared-machine")
