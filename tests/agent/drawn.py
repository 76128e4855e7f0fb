"""Small pictures for tests, drawn here."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def png(width: int = 56, height: int = 28, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(data, "PNG")
    return data.getvalue()


def jpeg(width: int = 56, height: int = 28) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), (10, 120, 40)).save(data, "JPEG")
    return data.getvalue()


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes, kind: str = "png", **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(data, kind)}, **more}
