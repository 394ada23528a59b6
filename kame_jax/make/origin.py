"""What a folder of dialogues was made of: read from its manifest, and passed on to records and data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def contamination(root: str | Path) -> dict[str, Any] | None:
    """What source items a folder of dialogues was made of, as its manifest says: per source their count and hash."""
    file = Path(root) / MANIFEST
    if not file.is_file():
        return None
    try:
        sources = json.loads(file.read_text(encoding="utf-8")).get("sources")
        return {name: {"count": s["count"], "sha256": s["sha256"]} for name, s in sources.items()}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
        return None
