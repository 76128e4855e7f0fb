"""The small parts: merging, sharing the window, nonsense, names, the reward, the fold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.errors import AgentError
from perilune.swarm import workspaces
from perilune.swarm.assignment import folder_name, nonsense
from perilune.swarm.deliveries import LINE, Deliveries, room_for_reports, shorten
from perilune.swarm.merge import merge, read_cells
from perilune.swarm.reward import (
    Episode,
    advantages,
    critical_step_budget,
    fade,
    reward,
)

# --- merging --------------------------------------------------------------------------------------

MARKDOWN = (
    "Here:\n\n| **town** | size |\n|:---|---:|\n| Rome | 1,200 |\n| Bern | 3 |\n\nThat is all."
)


def cells_of(text: str) -> set[tuple[str, str, str]]:
    return {(each.row, each.column, each.value) for each in read_cells(text, "s")[1]}


@pytest.mark.parametrize(
    "text",
    [
        "| town | size | age |\n| --- | --- | --- |\n| Rome | 5 km | 9 |",
        '[{"town": "Rome", "size": "5 km", "age": 9}]',
        'Found:\n```json\n[{"town": "Rome", "size": "5 km", "age": 9}]\n```',
        '{"Rome": {"size": "5 km", "age": 9}}',
        "Rome.size = 5 km; Rome.age = 9",
        "Rome.size = 5 km\nRome.age = 9",
        "town | size | age\n--- | --- | ---\nRome | 5 km | 9",
    ],
)
def test_tables_are_read_in_every_form(text):
    assert cells_of(text) == {("Rome", "size", "5 km"), ("Rome", "age", "9")}


def test_duplicates_fall_together_and_conflicts_are_listed_with_their_sources():
    merged = merge(
        [
            ("one", MARKDOWN),
            ("two", "| Town | Size | age |\n|---|---|---|\n| rome | 1200 | 9 |\n| Bern | 4 | |"),
            ("three", "BERN.size = 4"),
            ("four", "I found nothing."),
        ]
    )
    assert merged.columns == ["size", "age"]
    assert merged.rows == {"Rome": {"size": "1,200", "age": "9"}, "Bern": {"size": "4"}}
    assert merged.duplicates == 2
    (conflict,) = merged.conflicts
    assert (conflict.row, conflict.column) == ("Bern", "size")
    assert conflict.values == [("4", ["two", "three"]), ("3", ["one"])]
    assert merged.without_table == ["four"]
    assert merged.head == "town"
    text = merged.text()
    assert "| Rome | 1,200 | 9 |" in text
    assert "1 cells are empty; 1 conflicts" in text
    assert "'4' from two, three; '3' from one" in text


names = st.text("abc xyz", min_size=1, max_size=5).filter(str.strip)


@given(st.lists(st.tuples(names, names, st.integers(0, 3)), max_size=30), st.integers(1, 5))
def test_no_value_is_lost_whatever_is_merged(facts, parts):
    reports = [
        (f"s{i}", "\n".join(f"{r}.{c} = {v}" for r, c, v in facts[i::parts])) for i in range(parts)
    ]
    merged = merge(reports)
    said: dict[tuple[str, str], set[str]] = {}
    for row, column, value in facts:
        key = " ".join(row.split()), " ".join(column.split())
        said.setdefault(key, set()).add(str(value))
    rows = {" ".join(row.split()): cells for row, cells in merged.rows.items()}
    conflicts = {
        (" ".join(each.row.split()), " ".join(each.column.split())): {v for v, _ in each.values}
        for each in merged.conflicts
    }
    for (row, column), values in said.items():
        cells = {" ".join(name.split()): value for name, value in rows[row].items()}
        assert cells[column] in values
        assert conflicts.get((row, column), {cells[column]}) == values


# --- the window -----------------------------------------------------------------------------------


@given(
    st.integers(0, 60_000), st.lists(st.integers(0, 9000), min_size=1, max_size=80),
    st.integers(300, 5000),
)  # fmt: skip
def test_what_is_shown_stays_within_the_room(room, lengths, cap):
    deliveries = Deliveries(room, len(lengths), cap)
    shown = [deliveries.show("x" * length) for length in lengths]
    said = sum(len(each) for each in shown if each is not None)
    # A cut report says in a line how much was cut.
    assert said <= max(0, room - LINE * len(lengths)) + 60 * len(lengths)
    assert all(each is None or len(each) <= cap + 60 for each in shown)


def test_all_is_shown_where_there_is_room():
    deliveries = Deliveries(room_for_reports(262_144, 5_000), 100, 4000)
    assert [deliveries.show("x" * 3000) for _ in range(100)] == ["x" * 3000] * 100
    assert room_for_reports(1000, 5000) == 0


def test_a_shortened_text_has_head_and_tail():
    text = shorten("begin " + "x" * 5000 + " end", 1000)
    assert text.startswith("begin ")
    assert text.endswith(" end")
    assert "characters are left out" in text


# --- names and nonsense ---------------------------------------------------------------------------


def test_folder_names_are_safe_short_and_stable():
    assert folder_name("Poems & Songs", "functions.assign_task:3") == "poems-songs-3"
    assert folder_name("../../etc", "functions.assign_task:0") == "etc-0"
    other = folder_name("x" * 500, "call_1/../2")
    assert other == folder_name("x" * 500, "call_1/../2")
    assert len(other) < 60
    assert "/" not in other
    assert folder_name("a", "x:1") != folder_name("a", "y:1")
    assert folder_name("月", "functions.assign_task:1") == "agent-1"


@pytest.mark.parametrize(
    "text", ["", " \n", "<|tool_call_begin|>x", "\ufffd" * 40 + "hello", "ha " * 600]
)
def test_nonsense_is_noticed(text):
    assert nonsense(text)


def test_tables_and_short_words_are_no_nonsense():
    table = "\n".join(f"| town {i} | {i * 37} km2 | mild |" for i in range(400))
    for text in ("4", "Unknown: no article says it.", table, "月が綺麗ですね。" * 3):
        assert not nonsense(text)


# --- workspaces -----------------------------------------------------------------------------------


async def test_a_workspace_is_copied_with_links_and_only_changes_are_kept(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "run" / "workspace"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "a.txt").write_text("a")
    (source / "b.txt").write_text("b")
    (source / "link").symlink_to("/etc/passwd")
    target.parent.mkdir()
    await workspaces.make_workspace("copy", source, target)
    before = workspaces.list_files(target)
    assert set(before) == {"sub/a.txt", "b.txt"}
    assert (target / "link").is_symlink()
    (target / "sub" / "a.txt").write_text("changed")
    (target / "new.txt").write_text("new")
    (target / "leak").symlink_to("/etc/passwd")
    assert workspaces.keep_changed(target, before, tmp_path / "kept") == ["new.txt", "sub/a.txt"]
    assert not (tmp_path / "kept" / "leak").exists()
    assert (source / "sub" / "a.txt").read_text() == "a"
    monkeypatch.setattr(workspaces, "MOST_FILES", 1)
    with pytest.raises(AgentError, match="too large to copy"):
        await workspaces.make_workspace("copy", source, tmp_path / "other")


# --- the reward -----------------------------------------------------------------------------------


def episode(**changes) -> Episode:
    given = {"performance": 1.0, "width": 8, "stages": [8], "finished": 8, "critical_steps": 4}
    return Episode(**{**given, **changes})


def test_the_reward_is_the_sum_of_its_terms():
    each = reward(episode(), 0.0)
    assert each.total == pytest.approx(1 + 0.3 + 0.2 + 0.2 * (1 - 4 / 22) - 0.024)
    late = reward(episode(), 0.9)
    assert (late.parallel, late.finish) == (0.0, 0.0)
    assert late.total == pytest.approx(1 + 0.2 * (1 - 4 / 22) - 0.024)


def test_shaping_fades_in_a_line():
    assert [fade(each, 0.6) for each in (0.0, 0.3, 0.6, 1.0)] == [1.0, 0.5, 0.0, 0.0]


def test_splitting_what_needs_none_never_pays():
    for progress in (0.0, 0.5, 1.0):
        alone = episode(width=1, stages=[], finished=0, critical_steps=2)
        split = episode(width=1, stages=[1], finished=1, critical_steps=4)
        assert reward(split, progress).total < reward(alone, progress).total


def test_wasted_work_costs_and_earns_nothing():
    plain = reward(episode(stages=[4], finished=4), 0.0)
    padded = reward(episode(stages=[4], finished=4, wasted=4), 0.0)
    assert padded.parallel == plain.parallel
    assert padded.finish == plain.finish / 2 and padded.cost == 2 * plain.cost


def test_more_sub_agents_than_the_task_is_wide_never_pay():
    for progress in (0.0, 1.0):
        fits = reward(episode(), progress).total
        assert reward(episode(stages=[20], finished=20), progress).total < fits


def test_parallel_work_pays_after_annealing_and_only_when_right():
    for width in range(4, 13):
        split = episode(width=width, stages=[width], finished=width, critical_steps=4)
        serial = episode(width=width, stages=[], finished=0, critical_steps=width + 1)
        assert reward(split, 1.0).total > reward(serial, 1.0).total
    wrong = episode(performance=0.5)
    assert reward(wrong, 1.0).speed == 0.0


def test_the_step_budget_has_no_room_for_serial_work_on_wide_tasks():
    for width in (8, 10, 12):
        assert 4 <= critical_step_budget(width, 4) < width + 1
    for width in (1, 2, 3):
        assert critical_step_budget(width, 4) >= 2 * width + 2
    budgets = [critical_step_budget(width, 4) for width in range(3, 9)]
    assert budgets == sorted(budgets, reverse=True)


def test_advantages_sum_to_nought():
    assert advantages([1.0, 0.0, 2.0]) == [0.0, -1.0, 1.0]
    assert advantages([]) == []
