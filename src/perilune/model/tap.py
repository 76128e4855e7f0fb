"""Look at intermediate tensors from outside, by module name, for debugging and parity tests.

with tap(model, "model.layers.*.self_attn") as seen:
    model(input_ids)
seen["model.layers.3.self_attn"]
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import nn

from perilune.errors import UsageError


@contextmanager
def tap(model: nn.Module, *patterns: str) -> Iterator[dict[str, Any]]:
    """Collect the latest output of every module whose name matches one of the glob `patterns`.

    Outputs are the modules' own, neither copied nor detached. Raises UsageError where a pattern
    matches no module.
    """
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"no module is called {pattern!r}", remedy=f"Name one such as {names[1]!r}"
            )
    seen: dict[str, Any] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        seen[name] = output

    hooks = [
        module.register_forward_hook(partial(keep, name))
        for name, module in model.named_modules()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
