"""Which names a change renamed, and old tests with them: `split_bill` became `share_bill`.

A name was renamed where a definition of the changed modules is gone, another has come, and lines
of the change differ by nothing but the two. A module that moved counts likewise.
"""

from __future__ import annotations

import ast
import difflib
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

_LIKE = 0.6
"""How alike two texts of a moved module are at least."""
_WORD = re.compile(r"[^\W\d]\w*")


def renamed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Old name -> new name. `before` and `after`: the texts of the changed Python modules that are
    no tests, by path."""
    pairs = Counter[tuple[str, str]]()
    moved = _moved(before, after)
    gone, come = _defined(before.values()), _defined(after.values())
    gone, come = gone - come, come - gone
    for path, text in before.items():
        new = after.get(moved.get(path, path))
        if new is not None:
            pairs.update(_exchanged(text, new))
    found: dict[str, str] = {}
    for (old, new), _ in pairs.most_common():
        if old in gone and new in come and old not in found and new not in found.values():
            found[old] = new
    for path, other in moved.items():
        old, new = _module(path), _module(other)
        if old != new:
            found.setdefault(old, new)
    return found


def with_names(text: str, names: Mapping[str, str]) -> str:
    """A Python text with names exchanged: identifiers, dotted modules, and words of texts."""
    dotted = {old: new for old, new in names.items() if "." in old or "." in new}
    plain = {old: new for old, new in names.items() if old not in dotted}
    for old, new in sorted(dotted.items(), key=lambda item: -len(item[0])):
        text = _from_import(text, old, new)
        text = re.sub(rf"(?<![\w.]){re.escape(old)}(?!\w)", new, text)
    return _WORD.sub(lambda match: plain.get(match[0], match[0]), text)


def _from_import(text: str, old: str, new: str) -> str:
    """`from a import b` where the module `a.b` became `c.d`."""
    (there, _, leaf), (here, _, name) = old.rpartition("."), new.rpartition(".")
    if not there:
        return text
    where = f"from {here} import" if here else "import"
    renamed_as = name if name == leaf else f"{name} as {leaf}"
    return re.sub(
        rf"from {re.escape(there)} import {re.escape(leaf)}(?!\w)(?!\s*,)",
        f"{where} {renamed_as}",
        text,
    )


def _module(path: str) -> str:
    parts = list(PurePosixPath(path).with_suffix("").parts)
    if parts and parts[0] in ("src", "lib") and len(parts) > 1:
        parts = parts[1:]
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def _moved(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Old path -> new path, of modules that are gone and stand elsewhere."""
    gone = [path for path in before if path not in after]
    come = [path for path in after if path not in before]
    found: dict[str, str] = {}
    for path in gone:
        ratios = {
            other: difflib.SequenceMatcher(None, before[path], after[other], autojunk=False).ratio()
            for other in come
            if other not in found.values()
        }
        best = max(ratios, key=lambda each: ratios[each], default="")
        if best and ratios[best] >= _LIKE:
            found[path] = best
    return found


def _defined(texts: Iterable[str]) -> set[str]:
    """The names that modules define: functions, classes, parameters, attributes, variables."""
    names: set[str] = set()
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def _exchanged(old: str, new: str) -> Iterable[tuple[str, str]]:
    """Names that stand in each other's place in lines that are otherwise the same."""
    one, other = old.splitlines(), new.splitlines()
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "replace":
            continue
        for left, right in zip(one[a:b], other[c:d], strict=False):
            x, y = _tokens(left), _tokens(right)
            if len(x) == len(y):
                yield from (
                    (p, q) for p, q in zip(x, y, strict=True) if p != q and _both_names(p, q)
                )


def _both_names(one: str, other: str) -> bool:
    return bool(_WORD.fullmatch(one) and _WORD.fullmatch(other))


def _tokens(line: str) -> list[str]:
    try:
        read = tokenize.generate_tokens(io.StringIO(line.strip() + "\n").readline)
        return [each.string for each in read if each.string.strip()]
    except (tokenize.TokenError, SyntaxError):
        return re.findall(r"\w+|[^\w\s]", line)


def asserts(texts: Iterable[str]) -> int:
    """How many things tests demand: `assert`, `self.assert...`, `pytest.raises` and the like.

    What is true of itself (`assert True`) demands nothing.
    """
    count = 0
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                count += not isinstance(node.test, ast.Constant)
            elif isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                count += name.startswith("assert") or name in ("raises", "warns", "fail")
    return count


def test_functions(texts: Iterable[str]) -> int:
    """How many test functions there are."""
    return sum(len(re.findall(r"(?m)^\s*(?:async )?def test\w*\(", text)) for text in texts)


test_functions.__test__ = False  # type: ignore[attr-defined]

_VERBS = (
    r"(?:updat|chang|adapt|adjust|rewrit|edit|modif|renam|mov|delet|remov|replac|convert|port|drop|rais|"
    r"lower|correct|migrat|includ|anpass|änder|umbenenn|adapte|renomm|modifi|actualiz|cambi|更新|修改)\w*"
)
_ASKS = re.compile(
    rf"\b{_VERBS}\b[^.;!?\n]{{0,80}}\b(?:tests?|assert\w*|expected|expectations?|test_\w+|spec)\b|"
    r"\btests?\b[^.;!?\n]{0,30}\b(?:included|too|as well|also|inklusive|inclus|comprises?|anpassen|ändern|mit)\b|"  # noqa: E501
    r"\b(?:includ\w+|with|and|along with|inklusive|samt|und)\s+(?:the |all |its |their |die |den |alle )?tests?\b|"  # noqa: E501
    r"\b(?:the )?tests?(?: should| must| shall| need to| has to| have to)(?: now)? (?:expect|check|assert|say|be)|"  # noqa: E501
    r"包括测试|测试也",
    re.I,
)
_FORBIDS = re.compile(
    r"\b(?:without|don't|do not|never|not|no|leave|keep|ohne|nicht|sans|sin)\b[^.;!?\n]{0,40}\btests?\b|"  # noqa: E501
    r"\btests?\b[^.;!?\n]{0,30}\b(?:are right|are correct|as they are|unchanged|untouched|alone|stay)\b",  # noqa: E501
    re.I,
)
_REMOVAL = re.compile(
    r"\b(?:delet|remov|drop|lösch|entfern|supprim|elimin)\w*\b[^.;!?\n]{0,60}\btests?\b", re.I
)
_RENAMING = re.compile(
    r"\b(?:renam|refactor|mov|call(?:ed)?|umbenenn|renomm|renombr|split|reorgani[sz]|restructur)\w*|重命名|改名|改为",
    re.I,
)


def asks_for_tests(words: Sequence[str]) -> bool:
    """Whether a person asked that tests be changed, and did not forbid it."""
    text = "\n".join(words)
    return bool(_ASKS.search(text)) and not _FORBIDS.search(text)


def asks_for_removal(words: Sequence[str]) -> bool:
    return bool(_REMOVAL.search("\n".join(words)))


def asks_for_renaming(words: Sequence[str], names: Mapping[str, str]) -> bool:
    """Whether a person spoke of a renaming, or used one of the new names."""
    text = "\n".join(words)
    return bool(_RENAMING.search(text)) or any(
        re.search(rf"(?<!\w){re.escape(new)}(?!\w)", text) for new in names.values()
    )
