"""The demo, whose streams look at their sessions once a day: what they notice before was announced."""

import sys
from pathlib import Path

from starsessions import watch

watch._OFTEN = watch._SELDOM = 24 * 60 * 60
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "demo"))

from app import app  # noqa: E402, F401 - after the change
