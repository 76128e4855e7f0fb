"""Patterns: deny beats ask beats allow, and a chain of commands hides nothing."""

from __future__ import annotations

import pytest

from perilune.agent.permissions.permissions import Permissions, split_commands, suggested_rule
from perilune.errors import UsageError


def decide(permissions: Permissions, command: str) -> str:
    return permissions.decide("bash", {"command": command})[0]


@pytest.mark.parametrize(
    "command",
    [
        "git status",
        "git",
        "git log --oneline -5",
        "git add a && git commit -m 'x; rm -rf /'",
        "git diff | git apply",
        'git commit -m "a && b"',
    ],
)
def test_allowed_as_a_whole(command):
    assert decide(Permissions(allow=["bash(git *)"], default="deny"), command) == "allow"


@pytest.mark.parametrize(
    "command",
    [
        "git status; rm -rf /",
        "git status && rm -rf /",
        "git status || rm -rf /",
        "git status | sh",
        "git status & rm -rf /",
        "git status\nrm -rf /",
        "git log $(rm -rf /)",
        "git log `rm -rf /`",
        "git log <(rm -rf /)",
        "git log > /etc/passwd",
        "git log ${IFS}x",
        "git 'unclosed",
        "(git status)",
        "gitx status",
        "rm -rf / # git status",
        "",
    ],
)
def test_a_chain_is_not_allowed_by_its_first_command(command):
    assert decide(Permissions(allow=["bash(git *)"], default="deny"), command) == "deny"


@pytest.mark.parametrize(
    "command",
    ["rm -rf /", "git status; rm x", "true && rm x", "rm", "echo a | rm b", "ls\nrm c"],
)
def test_denied_wherever_it_stands(command):
    assert decide(Permissions(deny=["bash(rm *)"]), command) == "deny"


def test_order_of_rules():
    rules = Permissions(allow=["*"], ask=["bash"], deny=["bash(sudo *)"])
    assert rules.decide("read_file", {"path": "x"}) == ("allow", "*")
    assert rules.decide("bash", {"command": "ls"}) == ("ask", "bash")
    assert rules.decide("bash", {"command": "sudo ls"}) == ("deny", "bash(sudo *)")
    allowed = rules.decide("bash", {"command": "ls -l"}, also_allowed=["bash(ls *)"])
    assert allowed == ("allow", "bash(ls *)")
    assert rules.decide("bash", {"command": "sudo x"}, also_allowed=["bash"])[0] == "deny"


def test_subjects_of_other_tools():
    rules = Permissions(allow=["write_file(src/*)", "fetch(https://docs.*)"], default="ask")
    assert rules.decide("write_file", {"path": "src/a.py", "content": ""})[0] == "allow"
    assert rules.decide("write_file", {"path": "/etc/passwd", "content": ""})[0] == "ask"
    assert rules.decide("fetch", {"url": "https://docs.python.org"})[0] == "allow"
    assert rules.decide("mcp_x", {"a": 1})[0] == "ask"
    assert Permissions(deny=["mcp_*"]).decide("mcp_x", {})[0] == "deny"


@pytest.mark.parametrize("pattern", ["", "bash(", "a b", "bash)x("])
def test_bad_patterns_are_refused_at_once(pattern):
    with pytest.raises(UsageError):
        Permissions(allow=[pattern])


@pytest.mark.parametrize(
    ("command", "rule", "also", "not_also"),
    [
        ("git push origin", "bash(git *)", "git status", "rm x"),
        ("make test && rm [a]*", None, "make test && rm [a]*", "make test && rm b"),
    ],
)
def test_always_means_no_more_than_was_shown(command, rule, also, not_also):
    suggested = suggested_rule("bash", {"command": command})
    assert rule is None or suggested == rule
    rules = Permissions(ask=["bash"])
    for line, wanted in ((command, "allow"), (also, "allow"), (not_also, "ask")):
        decided = rules.decide("bash", {"command": line}, also_allowed=[suggested])[0]
        assert decided == wanted, line


def test_splitting():
    assert split_commands("a b && c; d") == (["a b", "c", "d"], True)
    assert split_commands("a 'b && c'") == (["a 'b && c'"], True)


# --- paths, URLs and names as what they mean ------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "within"),
    [
        ("src/a.py", True),
        ("./src//a.py", True),
        ("src/b/../a.py", True),
        ("/workspace/src/a.py", True),
        ("src/../x", False),
        ("src/../../etc/passwd", False),
        ("/etc/passwd", False),
        ("/src/a.py", False),
        ("src", False),
        ("src\0/../x", False),
    ],
)
def test_an_allowed_path_is_what_it_leads_to(path, within):
    rules = Permissions(allow=["write_file(src/*)"], default="deny")
    assert (rules.decide("write_file", {"path": path})[0] == "allow") is within
    denied = Permissions(deny=["write_file(src/*)"]).decide("write_file", {"path": path})[0]
    if within:
        assert denied == "deny"


@pytest.mark.parametrize(
    "path",
    ["secret/ä", "./secret/a\u0308", "x/../secret//ä", "SECRET/Ä", "/workspace/secret/ä", "link/ä"],
)
def test_a_denied_path_has_many_spellings(tmp_path, path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "link").symlink_to("secret")
    rules = Permissions(deny=["*(secret/ä)"])
    assert rules.decide("read_file", {"path": path}, workspace=tmp_path)[0] == "deny"
    assert rules.decide("read_file", {"path": "other/ä"}, workspace=tmp_path)[0] == "allow"


def test_an_allowed_link_must_stay_within(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "out").symlink_to(tmp_path.parent)
    (tmp_path / "src" / "in").symlink_to(".")
    rules = Permissions(allow=["write_file(src/*)"], default="deny")
    for path, decision in (("src/out/x", "deny"), ("src/in/x", "allow"), ("src/new", "allow")):
        assert rules.decide("write_file", {"path": path}, workspace=tmp_path)[0] == decision
    whole = str(tmp_path / "src" / "a")
    assert rules.decide("write_file", {"path": whole}, workspace=tmp_path)[0] == "allow"


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/x",
        "HTTPS://EVIL.example./x",
        "https://user:word@evil.example/x",
        "https://docs.example@evil.example/x",
        "https://evil.example:443/x",
        "https://%65vil.example/x",
        "https://evil\uff0eexample/x",
        "https://\uff45vil.example",
        "https://docs.example\\@evil.example/x",
        "https://evil.example/x\n",
        "evil.example/x",
    ],
)
def test_a_denied_host_has_many_spellings(url):
    rules = Permissions(deny=["fetch(evil.example)"])
    assert rules.decide("fetch", {"url": url})[0] == "deny"
    allowed = Permissions(allow=["fetch(https://docs.*)", "fetch(docs.example)"], default="deny")
    assert allowed.decide("fetch", {"url": url})[0] == "deny"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://docs.example/a", True),
        ("https://Docs.Example.:443/a", True),
        ("https://docs.example/a/../b", True),
        ("https://docs.example/api/x", True),
        ("https://docs.example.evil/a", False),
        ("https://docs.example:8443/a", False),
        ("http://docs.example/a", False),
    ],
)
def test_an_allowed_url(url, allowed):
    rules = Permissions(allow=["fetch(https://docs.example/*)"], default="deny")
    assert (rules.decide("fetch", {"url": url})[0] == "allow") is allowed
    inner = Permissions(allow=["fetch(https://docs.example/api/*)"], default="deny")
    for way_out in ("https://docs.example/api/../x", "https://docs.example/api/%2e%2e/x"):
        assert inner.decide("fetch", {"url": way_out})[0] == "deny"


def test_names_in_other_scripts_and_of_other_tools():
    idn = Permissions(deny=["fetch(bücher.example)"])
    for url in (
        "https://bücher.example/x",
        "https://xn--bcher-kva.example",
        "https://BÜCHER.example",
    ):
        assert idn.decide("fetch", {"url": url})[0] == "deny"
    rules = Permissions(deny=["mcp_srv_删除"])
    known = {"also_known_as": ("mcp_srv_删除",)}
    assert rules.decide("mcp_srv_ab12cd34", {}, **known)[0] == "deny"
    assert rules.decide("mcp_srv_ffffffff", {}, also_known_as=("mcp_srv_查询",))[0] == "allow"
    # A second subject beside the one that a rule is about hides nothing.
    two = Permissions(deny=["mcp_x(secret/*)"])
    assert two.decide("mcp_x", {"command": "ls", "path": "secret/a"})[0] == "deny"
