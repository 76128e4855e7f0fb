"""transformers' own processors of kimi_k25, in a process of their own: files in, patches out.

    python reference_worker.py TORCHVISION_FOLDER JOBS.json

A job is {"kind": "image", "file": ..., "out": ...} or {"kind": "video", "frames": FILE.npy, "out":
...}. Out go `OUT.npz` with `levels` (uint8, the patches before normalisation) and `grid`.
torchvision lies beside the environment, because its library is built for one torch; where that is
another, its Python functions still work once the operator that it declares at import exists.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Operators of torchvision's library whose shapes it declares when it is imported; none is used.
OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou) -> Tensor",
}


def import_torchvision(folder: str) -> None:
    """The environment's own where it loads, else the one in the folder."""
    try:
        import torchvision

        return
    except (ImportError, RuntimeError):
        forget()
    sys.path.append(folder)
    try:
        import torchvision

        return
    except RuntimeError:
        forget()
    import torch

    for name, schema in OPERATORS.items():
        torch.library.define(f"torchvision::{name}", schema)
    import torchvision  # noqa: F401


def forget() -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def main(folder: str, jobs: str) -> None:
    import_torchvision(folder)
    import numpy as np
    import torch
    from PIL import Image, ImageOps
    from transformers.models.kimi_k25.image_processing_kimi_k25 import Kimi_K25ImageProcessor
    from transformers.models.kimi_k25.video_processing_kimi_k25 import Kimi_K25VideoProcessor

    torch.set_num_threads(1)
    images, videos = Kimi_K25ImageProcessor(), Kimi_K25VideoProcessor()

    def save(out: str, values: Any, grid: Any) -> None:
        levels = ((values * 0.5 + 0.5) * 255).round().to(torch.uint8)
        np.savez(out, levels=levels.numpy(), grid=np.asarray(grid))

    for job in json.loads(Path(jobs).read_text()):
        if job["kind"] == "image":
            Image.MAX_IMAGE_PIXELS = None
            image = ImageOps.exif_transpose(Image.open(job["file"]))
            if image.mode.startswith("I"):  # convert("RGB") would cut 16 bits to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            found = images(image, return_tensors="pt")
            save(job["out"], found["pixel_values"], found["image_grid_thw"])
        else:
            frames = torch.from_numpy(np.load(job["frames"])).permute(0, 3, 1, 2)
            found = videos([frames], do_sample_frames=False, return_tensors="pt")
            save(job["out"], found["pixel_values_videos"], found["video_grid_thw"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
