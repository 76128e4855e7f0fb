"""What the small programs share. They run in the client's own environment, in an empty folder."""

import json
import os
import sys
from pathlib import Path

URL = os.environ["OPENAI_BASE_URL"]
MODEL = os.environ["OPENAI_MODEL"]
KEY = os.environ["OPENAI_API_KEY"]
TASK = sys.argv[1]
OBJECT_TASK = "Describe the Moon: its name and its radius in kilometres."


def write_file(path: str, text: str) -> str:
    """Write a text file.

    Args:
        path: Where to write.
        text: What to write.
    """
    Path(path).write_text(text)
    return f"wrote {path}"


def show(name: str, radius_km: int) -> None:
    assert isinstance(radius_km, int), radius_km
    print(json.dumps({"name": name, "radius_km": radius_km}))
