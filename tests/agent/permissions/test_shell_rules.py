"""Deny and allow rules over shell lines: wrapped, quoted, nested, hidden commands are seen.

Nothing here is run: lines are only read.
"""

from __future__ import annotations

import random
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.agent.permissions.permissions import Permissions, suggested_rule
from perilune.agent.permissions.shell import read_line
from perilune.agent.permissions.shell.wild import may_match
from perilune.agent.permissions.shell.words import WILD

DENY = Permissions(deny=["bash(rm *)"])
ALLOW = Permissions(
    allow=["bash(ls *)", "bash(echo *)", "bash(git *)", "bash(cat *)"], default="deny"
)

HIDDEN = [
    # spelled otherwise
    "/bin/rm x",
    "./rm x",
    r"\rm x",
    "'rm' x",
    'r""m x',
    '"rm" x',
    "\"r\"'m' x",
    r"r\m x",
    r"$'\x72m' x",
    r"$'r\155' x",
    r"$'\u0072m' x",
    "/bin/r? x",
    "/bin/r[m] x",
    "/bin/* x",
    "{rm,-rf,x}",
    "r{m,x} x",
    "r\\\nm x",
    "rm",
    # beside assignments and redirections
    "X=1 rm x",
    "X=1 Y=2 /usr/bin/rm x",
    "PATH=. rm x",
    "> f rm x",
    "2>&1 rm x",
    "rm>f x",
    "rm<x",
    "env > f rm x",
    "ls && env > f rm x",
    "ls | env > f rm x",
    "! env > f rm x",
    "if ls; then ls && env -i A=1 exec > f rm x; fi",
    "env <<E > f rm x\nE",
    "env <<E rm > f x\nE",
    "ls && env <<E > f rm x\nE",
    "bash <<E > f -c 'rm x'\nls\nE",
    # in compounds and chains
    "(rm -rf x)",
    "{ rm x; }",
    "if true; then rm x; fi",
    "if rm x; then true; fi",
    "if a; then b; elif c; then rm x; else d; fi",
    "for i in 1 2; do rm $i; done",
    "for ((i=0;i<3;i++)); do rm $i; done",
    "for i in $(rm x); do :; done",
    "while true; do rm x; done",
    "until rm x; do true; done",
    "select x in a; do rm x; done",
    "case x in a) rm x;; esac",
    "case $(rm x) in a) b;; esac",
    "f() { rm x; }; f",
    "function f { rm x; }",
    "f() (rm x)",
    "a && rm x",
    "a || rm x",
    "a; rm x",
    "a | rm x",
    "a |& rm x",
    "a & rm x",
    "rm x &",
    "! rm x",
    "! (rm x)",
    "time (rm x)",
    "rm;ls",
    "ls;rm",
    "ls # hi\nrm x",
    "[ -f a ] && rm a",
    "test -x a && rm x || true",
    "coproc rm x",
    "coproc N { rm x; }",
    "! case x in a) rm x;; esac",
    "! for i in a; do rm $i; done",
    "! ! if a; then rm x; fi",
    "time for i in a; do rm $i; done",
    "time -p { rm x; }",
    "! time case x in a) rm x;; esac",
    "! 'case' x; rm x",
    "! X=1 > f rm x",
    "ls | X=1 > f env rm x",
    # at the end of a line
    "ls\n\\rm x",
    "ls\n\n\\rm x",
    "ls x\r\n\\rm x",
    "ls # a\n\\rm x",
    "time ls\n\\rm",
    "if a\n\\rm x; then b; fi",
    "sh -c 'ls\n\\rm x'",
    "cat <( ls\n\\rm x )",
    "ls \\\n;\\\n\\rm x",
    'ls | ls | ls\n/$\'\\x62\\x69\\x6e\\x2f\\x72\'""m < in "w.y" \'wc_ac\' ""w/',
    "time { { stdbuf -oL stdbuf -oL time $'\\x2e'/r\\m 2>/dev/null; }; }",
    "ls \\\r\nrm x",
    "ls \\ #; rm x",
    "ls \\\t#; rm x",
    "sudo -u \\  rm x",
    "ls\v#; rm x",
    "ls\f#; rm x",
    "ls\r#; rm x",
    "> a > b rm x",
    "> a > b X=1 rm > c x",
    # in substitutions
    "$(rm x)",
    "echo $(rm x)",
    'echo "a $(rm x) b"',
    'echo "${X:-$(rm x)}"',
    "echo `rm x`",
    "cat <(rm x)",
    "tee >(rm x)",
    "[[ -n $(rm x) ]]",
    '[ -n "$(rm x)" ]',
    "echo $((1+$(rm x)))",
    "(( x = $(rm x) ))",
    "a=(1 $(rm x))",
    "X=$(rm x)",
    "X=$(rm x) ls",
    "export X=$(rm x)",
    "local x=`rm x`",
    "declare -a x=($(rm x))",
    'echo a > "$(rm x)"',
    'cat <<< "$(rm x)"',
    "cat <<E\n$(rm x)\nE",
    "cat <<'E'\nx\nE\nrm x",
    'cat <<"A B"\nx\nA B\nrm x',
    # behind wrappers
    "env rm x",
    "env -i X=1 rm x",
    "env -u HOME rm x",
    "env -S 'rm x'",
    'env -S"rm x"',
    "env --split-string='rm x'",
    "env -C /tmp rm x",
    "/usr/bin/env rm x",
    "sudo rm x",
    "sudo -u root rm x",
    "sudo -n -u root -- rm x",
    "sudo --user=root rm x",
    "sudo X=1 rm x",
    "doas rm x",
    "command rm x",
    "command -p rm x",
    "exec rm x",
    "exec -a y rm x",
    "builtin rm x",
    "nohup rm x",
    "nice rm x",
    "nice -n 5 rm x",
    "nice -5 rm x",
    "nice --adjustment=5 rm x",
    "time rm x",
    "time -p rm x",
    "timeout 5 rm x",
    "timeout -k 5 -s KILL 10s rm x",
    "timeout --signal=9 5 rm x",
    "setsid rm x",
    "setsid -w rm x",
    "stdbuf -oL rm x",
    "stdbuf -o L rm x",
    "xargs rm",
    "xargs -n1 -I{} rm {}",
    "xargs -0 -n 1 -P4 rm -f",
    "ls | xargs -r rm",
    "ls | xargs -d '\\n' rm",
    "printf x | sudo tee y | xargs -I % rm %",
    "find . -exec rm {} \\;",
    "find . -name x -execdir rm {} +",
    "find . -ok rm {} ';'",
    "fd x -x rm",
    "busybox rm x",
    "flock /tmp/l rm x",
    "flock /tmp/l -c 'rm x'",
    "strace -f rm x",
    "chroot / rm x",
    "uv run rm x",
    "npx rm x",
    "ssh host rm x",
    "ssh host 'a; rm x'",
    "watch rm x",
    "watch -n 1 'rm x'",
    "parallel rm ::: a",
    "su -c 'rm x'",
    "su root -c 'rm x'",
    "env sudo nice -n 5 timeout 3 rm x",
    "xargs sh -c 'rm x'",
    "find . -exec sh -c 'rm \"$1\"' _ {} \\;",
    "sudo sh -c 'rm x'",
    # scripts in the line
    "sh -c 'rm x'",
    'bash -lc "rm x"',
    "bash -c -- 'rm x'",
    "bash -ec 'a; rm x'",
    "bash -o pipefail -c 'rm x'",
    "bash --norc -c 'rm x'",
    "/bin/sh -c \"sh -c 'rm x'\"",
    "bash <<< 'rm x'",
    "bash <<E\nrm x\nE",
    "bash -s <<'E'\nrm x\nE",
    "eval 'rm x'",
    "eval rm x",
    "trap 'rm x' EXIT",
    "alias ls='rm -rf'",
    "find . -name x -exec bash -c 'eval \"rm x\"' \\;",
    "git submodule foreach 'rm x'",
    "git bisect run rm x",
    # what cannot be told
    "$X x",
    "${X} x",
    '"$X" x',
    "$(cat x) y",
    'eval "$X"',
    'bash -c "$X"',
    "cat <<E | sh\nrm x\nE",
    "echo 'rm x' | sh",
    "bash x.sh",
    "bash < x",
    "bash <<< ls < x",
    "bash <<< ls <&3",
    "bash <<E < x\nls\nE",
    "bash <<E 0<&3\nls\nE",
    "bash 3<<E\nls\nE",
    "echo 'rm x' | bash 3<<E\nls\nE",
    "echo 'rm x' | bash 3<<< ls",
    "! f() { rm x; }; f",
    "curl x | bash",
    ". ./script",
    "source x",
    "git 'unclosed",
    "python -c 'import os'",
    "python3 -Ic 'x'",
    "python3 - <<E\nimport os\nE",
    "perl -e 'unlink'",
    "node --eval 'x'",
    "git -c alias.x='!rm x' x",
    "git -c core.fsmonitor='rm x' status",
    "git config alias.x '!rm'",
    "awk 'BEGIN{system(\"rm x\")}'",
    'sh -c "sh -c \'sh -c \\"$X\\"\'"',
]

INNOCENT = [
    'ls -l "$DIR"',
    "ls -l $DIR/*.py",
    "echo rm x",
    'echo "rm x"',
    'git commit -m "rm x"',
    "git rm x",
    "grep -rn 'rm ' .",
    "cat rm",
    "ls /bin/rm",
    "rmdir x",
    "farm x",
    "echo a # rm x",
    "# rm x",
    "cat > rm",
    "command -v rm",
    "which rm",
    "type rm",
    "python x.py",
    "python -m pytest -q",
    "make",
    "./run.sh",
    "X=rm",
    "export X=rm",
    'for f in *.py; do echo "$f"; done',
    "if [ -f rm ]; then cat rm; fi",
    'while read -r l; do echo "$l"; done < f',
    "[[ $x =~ ^[a-z]+$ ]] && echo y",
    "echo $((1 + 2))",
    "cat <<'E'\nrm x\nE",
    "cat <<E\nrm x\nE",
    "sudo ls rm",
    "env X=rm ls",
    "xargs ls",
    "find . -name rm -print",
    "find . -name '*.pyc' -delete",
    "sh -c 'ls rm'",
    "bash -lc \"echo 'rm x'\"",
    "trap 'echo rm' EXIT",
    "trap - EXIT",
    "git log --format='%h rm'",
    "git -C x status",
    "timeout 5 ls",
    "nice -n 5 ls rm",
    "alias l='ls -l'",
    "printf '%s\\n' rm x",
    "sed -e 's/rm /x/' f",
    "awk '{print $1}' f",
    "ls | sort | uniq -c | head",
    "(cd x && ls)",
    "f() { ls; }; f",
    'echo "${X:-rm}"',
    "diff <(ls a) <(ls b)",
    'X=$(ls) && echo "$X"',
    'test -n "$X" -a -f y',
    'case "$1" in rm) echo;; *) ls;; esac',
    "read x",
    "echo 'it'\"'\"'s rm x'",
    "set -euo pipefail; ls",
    'cd "$(dirname "$0")" && ls',
    "echo a{b,c}",
    "let x=1",
    "python --version",
    "bash --version",
    "git config user.name x",
    "node x.js",
    "docker run x ls",
    "coproc ls",
    '[ "$a" = rm ]',
    "((x++))",
    "a=1; b=2; echo $a",
    "ls 2>&1 | tee out.txt",
    'ls > "$OUT" 2>/dev/null',
    'curl -s "https://x/$Y" -o z',
    "echo \\\nrm",
    # a redirection between the words
    "ls && cat > f rm",
    "ls | cat > f rm",
    "! cat > f rm",
    'if ls; then ls; else ls && env -i A=1 exec > out "l"""s ""w_""______\'_\'; fi',
    "cat <<E > f rm\nrm x\nE",
    "a && bash <<< ls > f",
    "< rm bash <<< ls",
    # before a compound
    "! case a in a) ls;; esac",
    'echo "a $( ! case a in a) ls;; esac )"',
    "! for i in a b; do ls; done",
    "! while ls; do ls; done",
    "! { ls; }",
    "! if ls; then ! case a in a) ls;; esac; fi",
    "time for i in 1 2 3; do ls; done",
    "time -p { ls; }",
    'ls a\\ b && echo " \\ x $X \\ "',
    "ls \\\n  a \\\n  rm",
    "! ! case a in a) ls;; esac",
    "time ! X=$(ls)",
    "! X=1 > f cat rm",
    "ls | X=1 > f cat rm",
    'ls | ls | ls\n/$\'\\x62\\x69\\x6e\\x2f\\x72\'""mx < in "w.y" \'wc_ac\' ""w/',
    "time { { ls; }; }",
    "time [[ -n x ]]",
    "> a > b cat rm > c",
    "ls a\n\\ls rm",
    "ls a\r\nls rm\r\n",
    "echo 'a\u00a0# b' \u2028 rm",
    # what a usual day of work holds
    "pytest -q",
    "python -m pytest",
    "npm test",
    'git commit -m "remove rm"',
    "ls -la | grep rm",
    "echo rm",
    "cd src && ls",
    'for f in *.py; do wc -l "$f"; done',
    'grep -rn "rm " .',
    "sed -n 1,5p x",
    "cat <<'EOF' > a.txt\nThe command rm removes a file:\n\nrm x\nrm -rf $X\nEOF",
    "cat > a.txt <<'EOF'\nrm x\nEOF",
    "find . -name '*.pyc'",
    "X=$(ls) && echo $X",
    "python script.py",
]


def decide(rules: Permissions, line: str) -> str:
    return rules.decide("bash", {"command": line})[0]


@pytest.mark.parametrize("line", HIDDEN)
def test_a_forbidden_command_is_seen_wherever_it_hides(line: str) -> None:
    assert decide(DENY, line) == "deny"
    assert decide(Permissions(ask=["bash(rm *)"]), line) == "ask"
    assert decide(ALLOW, line) == "deny"


@pytest.mark.parametrize("line", INNOCENT)
def test_the_innocent_are_not_accused(line: str) -> None:
    assert decide(DENY, line) == "allow", read_line(line)


@pytest.mark.parametrize(
    ("rule", "line", "hit"),
    [
        ("bash(git push *)", "git push origin", True),
        ("bash(git push *)", "git $X origin", True),
        ("bash(git push *)", 'git "$X"', True),
        ("bash(git push *)", "git status $X", False),
        ("bash(git push *)", "git pu?h origin", True),
        ("bash(*--force*)", "git push --for''ce", True),
        ("bash(*--force*)", "git push origin", False),
        ("bash(rm -rf *)", "rm -r x", False),
        ("bash(rm -rf *)", 'rm "$FLAGS" x', True),
        ("bash(curl *)", "env -i /usr/bin/curl x", True),
        ("bash(X=1 *)", "X=1 ls", True),
        ("bash(/bin/rm *)", "/bin/rm x", True),
        ("bash(time *)", "ls; time for i in a; do ls; done", True),
    ],
)
def test_unknown_words_may_be_what_is_denied(rule: str, line: str, hit: bool) -> None:
    assert (decide(Permissions(deny=[rule]), line) == "deny") is hit


@pytest.mark.parametrize(
    ("allow", "line", "allowed"),
    [
        (["git *"], "git commit -m 'a (b) <c> {d}'", True),
        (["git *"], "git log 2>&1", True),
        (["git *"], "git log 2>/dev/null", True),
        (["git *"], "git log > x", False),
        (["git *"], "git log < x", False),
        (["git *", "ls *"], "git log && ls -l", True),
        (["git *"], "git log && ls -l", False),
        (["git *"], 'git log "$X"', True),
        (["git *"], "git log ${X}", False),
        (["git *"], "GIT_SSH_COMMAND=x git fetch", False),
        (["git *"], "/tmp/git status", False),
        (["git *"], "env git status", False),
        (["sudo *"], "sudo rm x", False),
        (["env *"], "env rm x", False),
        (["find *"], "find . -name x", True),
        (["find *"], "find . -exec rm {} \\;", False),
        (["find *", "rm *"], "find . -exec rm {} \\;", True),
        (["xargs *"], "xargs rm", False),
        (["timeout 60 pytest *"], "timeout 60 pytest -q", True),
        (["timeout 60 pytest *"], "timeout 60 rm x", False),
        (["timeout *"], "timeout 60 pytest -q", False),
        (["bash *"], "bash -c 'rm x'", False),
        (["bash -c *"], "bash -c 'rm x'", False),
        (["bash *"], "bash x.sh", False),
        (["python *"], "python x.py", True),
        (["python *"], "python -c 'x'", False),
        (["eval *"], "eval ls", False),
        (["ls *"], "ls *.py", True),
        (["ls *"], "ls $(rm x)", False),
        (["ls *"], "ls `rm x`", False),
        (["ls *"], "f() { ls; }", False),
        (["ls *"], "ls() { rm x; }; ls", False),
        (["alias *", "ls *"], "alias ls='rm x'; ls", False),
        (["ls *"], "", False),
        (["ls *"], "# nothing", False),
    ],
)
def test_allowed_is_only_what_is_known_as_a_whole(
    allow: list[str], line: str, allowed: bool
) -> None:
    rules = Permissions(allow=[f"bash({each})" for each in allow], default="deny")
    assert (decide(rules, line) == "allow") is allowed, read_line(line)


@pytest.mark.parametrize("line", [*HIDDEN, *INNOCENT])
def test_always_allows_what_was_shown_and_nothing_hidden(line: str) -> None:
    """The suggested rule allows that line again, and no other program."""
    rule = suggested_rule("bash", {"command": line})
    rules = Permissions(ask=["bash"])
    again = rules.decide("bash", {"command": line}, also_allowed=[rule])[0]
    assert again == "allow", rule
    other = rules.decide("bash", {"command": "zzz x"}, also_allowed=[rule])[0]
    assert other == "ask", rule


def test_a_wild_text_and_a_glob() -> None:
    assert may_match(f"a{WILD}c", "a*c")
    assert may_match(f"a{WILD}c", "abbbc")
    assert may_match(WILD, "rm")
    assert may_match(f"{WILD}x", "[r]m x")
    assert not may_match(f"a{WILD}c", "b*")
    assert not may_match(f"ls {WILD}", "rm *")
    assert may_match(f"a{WILD}", "?")
    assert may_match("a" * 20_000 + WILD, "*b")


@pytest.mark.parametrize(
    "line",
    [
        "(" * 5_000 + "rm x" + ")" * 5_000,
        "$(" * 3_000 + "rm x" + ")" * 3_000,
        "ls;" * 50_000 + "rm x",
        "sh -c '" * 2_000,
        "env " * 20_000 + "rm x",
        'echo "' + "$(echo " * 1_000 + "x" + ")" * 1_000 + '"; rm x',
        "find . " + "-exec rm {} + " * 5_000,
        "a=" * 50_000 + "; rm x",
        "{" * 10_000,
        "r" + WILD + "m x",
        "\ud83d; rm x",
        "x" * 300_000,
    ],
)
def test_hostile_lines_end_in_an_answer(line: str) -> None:
    """No depth and no length raises anything, and each is denied: all of it, or as not told."""
    began = time.process_time()
    assert decide(DENY, line) == "deny"
    assert decide(ALLOW, line) == "deny"
    assert time.process_time() - began < 30  # a hang, not a figure


# --- the property: whatever wraps it, a forbidden command is seen ------------------------------

_INNOCENT_WORD = st.text(string.ascii_lowercase + "/._-", min_size=1, max_size=8).map(
    lambda text: "w" + text
)


def quoted(word: str, pick: random.Random, ways: int = 6) -> str:
    """The word in some other spelling that bash reads as the same.

    The last of the ways are those that the grammar refuses now and then (`'a'\\b`): such a line
    counts as not told, and so is denied.
    """
    pieces: list[str] = []
    while word:
        length = pick.randint(1, len(word))
        piece, word = word[:length], word[length:]
        how = pick.randrange(ways)
        if how == 0:
            pieces.append(f"'{piece}'")
        elif how == 1:
            pieces.append(f'"{piece}"')
        elif how == 5:
            pieces.append("\\" + piece)
        elif how == 3:
            pieces.append("$'" + "".join(f"\\x{ord(char):02x}" for char in piece) + "'")
        elif how == 2:
            pieces.append('""' + piece)
        else:
            pieces.append(piece)
    return "".join(pieces)


def spelled(words: list[str], between: list[str], pick: random.Random) -> str:
    """The words on a line; now and then a redirection stands behind one of them."""
    line = list(words)
    if pick.random() < 0.3:
        line.insert(pick.randint(1, len(line)), pick.choice(between))
    return " ".join(line)


WRAPS = [
    "env {}",
    "env -i A=1 {}",
    "sudo {}",
    "sudo -u root {}",
    "command {}",
    "nohup {}",
    "nice -n 3 {}",
    "time {}",
    "timeout 5 {}",
    "timeout -s KILL 5 {}",
    "setsid {}",
    "stdbuf -oL {}",
    "xargs {}",
    "xargs -n 1 {}",
    "busybox {}",
    "exec {}",
    "X=1 {}",
    "> out {}",
    "find . -exec {} \\;",
]
COMPOUNDS = [
    "( {} )",
    "{{ {}; }}",
    "if true; then {}; fi",
    "if ls; then ls; else {}; fi",
    "for i in a b; do {}; done",
    "while ls; do {}; done",
    "case a in a) {};; esac",
    "f() {{ {}; }}; f",
    "ls && {}",
    "ls || {}",
    "ls; {}",
    "ls | {}",
    "{} | ls",
    "{} & ls",
    "ls\n{}",
    "! {}",
    "time {}",
    "echo $( {} )",
    'echo "a $( {} ) b"',
    "cat <( {} )",
    "X=$( {} )",
    "[[ -n $( {} ) ]]",
    "echo $((1 + $( {} )))",
]


def wrapped(command: str, pick: random.Random) -> str:
    """The command within wrappers, then within compounds and shells."""
    for _ in range(pick.randrange(4)):
        command = pick.choice(WRAPS).format(command)
    for _ in range(pick.randrange(4)):
        if pick.random() < 0.2 and "'" not in command:
            command = pick.choice(["sh -c '{}'", "bash -lc '{}'", "eval '{}'"]).format(command)
        else:
            compound = pick.choice(COMPOUNDS)
            if compound in ("! {}", "time {}") and command.startswith("f()"):
                compound = "( {} )"  # bash reads `! f() { ...; }`, the grammar does not
            command = compound.format(command)
    return command


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), rest=st.lists(_INNOCENT_WORD, max_size=3))
def test_what_wraps_a_forbidden_command_does_not_hide_it(seed: int, rest: list[str]) -> None:
    pick = random.Random(seed)
    name = quoted(pick.choice(["rm", "/bin/rm", "./rm"]), pick)
    between = ["> out", "2>&1", "< in", ">> out", "<<< w", "2>/dev/null", "3< in"]
    words = [name, *(quoted(word, pick) for word in rest)]
    line = wrapped(spelled(words, between, pick), pick)
    assert decide(DENY, line) == "deny", line
    assert decide(ALLOW, line) == "deny", line


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    name=st.sampled_from(["ls", "cat", "grep", "tool", "/usr/bin/wc", "rmdir", "xrm"]),
    rest=st.lists(st.one_of(_INNOCENT_WORD, st.sampled_from(["rm", "-rf", "rm x"])), max_size=3),
)
def test_what_wraps_an_innocent_command_does_not_accuse_it(
    seed: int, name: str, rest: list[str]
) -> None:
    pick = random.Random(seed)
    words = [quoted(word, pick, 5) if " " not in word else f"'{word}'" for word in [name, *rest]]
    line = wrapped(spelled(words, ["> out", ">> out", "2>/dev/null"], pick), pick)
    assert decide(DENY, line) == "allow", line


@settings(max_examples=200, deadline=None)
@given(line=st.text(alphabet=string.printable + "é\u2028\x00", max_size=200))
def test_no_text_raises(line: str) -> None:
    decide(DENY, line)
    decide(ALLOW, line)
    suggested_rule("bash", {"command": line})
