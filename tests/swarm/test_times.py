"""Times in results: from one clock, never negative, whatever the clocks of journals did."""

from __future__ import annotations

import io
import math
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from perilune.agent.journal.clock import ForwardClock, now
from perilune.agent.journal.journal import Journal, read_journal
from perilune.agent.journal.memory_journal import MemoryJournal
from perilune.agent.journal.state import RunState
from perilune.events import (
    AssignmentFinished,
    AssignmentProgress,
    AssistantMessage,
    Event,
    Record,
    RunFinished,
    RunStarted,
    SubAgentCreated,
    ToolFinished,
    ToolStarted,
)
from perilune.swarm.state import SwarmState, fold_swarm
from perilune.swarm.timeline import render_timeline
from perilune.swarm.trace import read_trace
from perilune.swarm.tree import render_tree, summary

NOW = 1_796_018_376.0
STARTED = RunStarted(task="compare", model="m", system_prompt="", tools=[], workspace=".")


def _assign(call_id: str, step: int = 1) -> ToolStarted:
    arguments = {"agent": call_id, "prompt": f"do {call_id}"}
    return ToolStarted(
        call_id=call_id, name="assign_task", arguments=arguments, step=step, side_effects=True
    )


def _ended(call_id: str, began: float, ended: float, status: str = "done") -> AssignmentFinished:
    return AssignmentFinished(
        call_id=call_id, sub_agent=call_id, folder=call_id, status=status,  # type: ignore[arg-type]
        began=began, ended=ended,
    )  # fmt: skip


def _records(*events: tuple[float, Event]) -> list[Record]:
    return [Record(event=e, run="r", seq=n, time=t) for n, (t, e) in enumerate(events, 1)]


def _assert_sound(state: SwarmState) -> None:
    assert state.seconds >= 0
    assert state.serial_seconds() >= 0
    assert math.isfinite(state.serial_seconds())
    for each in state.assignments.values():
        assert each.seconds >= 0
        assert state.began <= each.began
        assert each.ended == 0 or each.began <= each.ended <= max(state.ended, each.began)
    assert state.turns == sorted(state.turns)
    assert " -" not in summary(state)


def test_one_that_never_worked_takes_no_time():
    """It has no times of its own; they were taken for 1970: "3.5 s of -1796018379.7 s serial"."""
    state = fold_swarm(
        _records(
            (NOW, STARTED), (NOW + 1, AssistantMessage(step=1)),
            (NOW + 1, _assign("a")), (NOW + 1, _assign("b")),
            (NOW + 1.5, _ended("b", 0.0, 0.0, "budget")),
            (NOW + 3, _ended("a", NOW + 1, NOW + 3)), (NOW + 3.5, AssistantMessage(step=1)),
        )
    )  # fmt: skip
    assert round(state.seconds, 3) == 3.5
    assert round(state.serial_seconds(), 3) == 3.5
    assert "3.5 s of 3.5 s serial" in summary(state)


def test_a_sub_agent_of_a_machine_with_another_clock_keeps_its_duration():
    for skew in (-86_400.0, 86_400.0):
        state = fold_swarm(
            _records(
                (NOW, STARTED), (NOW + 1, AssistantMessage(step=1)), (NOW + 1, _assign("a")),
                (NOW + 4, _ended("a", NOW + 2 + skew, NOW + 3.5 + skew)),
            )
        )  # fmt: skip
        (only,) = state.assignments.values()
        assert only.seconds == 1.5
        assert state.began <= only.began <= only.ended <= state.ended


TIMES = st.floats(0, 4e9) | st.floats(NOW - 100, NOW + 100) | st.sampled_from([0.0, NOW])
CALLS = st.sampled_from(["a", "b", "c"])
EVENTS = st.one_of(
    st.builds(_assign, CALLS, st.integers(0, 3)),
    st.builds(_ended, CALLS, TIMES, TIMES, st.sampled_from(["done", "died", "budget", "stopped"])),
    st.builds(lambda c: AssignmentProgress(call_id=c, sub_agent=c, steps=1, tool_calls=1), CALLS),
    st.builds(
        lambda c, o: ToolFinished(call_id=c, name="assign_task", outcome=o, content="", seconds=0),
        CALLS, st.sampled_from(["ok", "error", "cancelled"]),
    ),
    st.just(AssistantMessage(step=1)),
    st.just(RunFinished(reason="done")),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TIMES, EVENTS), max_size=30))
def test_no_stamps_make_a_negative_time(events: list[tuple[float, Event]]):
    records = _records((NOW, STARTED), *events)
    state = SwarmState()
    run = RunState()
    for record in records:
        state.apply(record)
        _assert_sound(state)
        run.apply(record)
        assert run.task_seconds >= 0


def _write(folder: Path, records: list[Record]) -> None:
    folder.mkdir(parents=True)
    journal = Journal(folder)
    journal.import_records(records)
    journal.release()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(TIMES, EVENTS), max_size=15),
    st.lists(st.tuples(TIMES, EVENTS), max_size=6),
)
def test_the_timeline_shows_no_negative_time(tmp_path_factory, events, own):
    folder = tmp_path_factory.mktemp("run") / "r"
    created = SubAgentCreated(name="a", system_prompt="")
    ends = _ended("a", NOW + 1, NOW + 2)
    _write(folder, _records((NOW, STARTED), (NOW, created), (NOW, _assign("a")), (NOW, ends),
                            *events))  # fmt: skip
    _write(folder / "swarm" / "a", _records((NOW, STARTED), *own))
    trace = read_trace(folder)
    assert trace.critical_seconds >= 0
    for lane in trace.lanes:
        assert lane.began <= lane.ended
        for span in lane.spans:
            assert lane.began <= span.began <= span.ended
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_timeline(trace), render_tree(trace))
    assert " -" not in console.export_text().replace("--", "")


@settings(max_examples=200, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=20), TIMES)
def test_a_journal_never_goes_back(wall: list[float], earlier: float):
    """The wall clock is set, or the run goes on where the clock is behind."""
    ticks = iter(wall)
    clock = ForwardClock(lambda: next(ticks))
    clock.saw(earlier)
    stamps = [clock() for _ in wall]
    assert [earlier, *stamps] == sorted([earlier, *stamps])
    for before, after, first, second in zip(wall, wall[1:], stamps, stamps[1:], strict=False):
        if after >= before:  # what passes by the clock passes in the journal
            assert math.isclose(second - first, after - before, abs_tol=1e-3)


def test_a_run_resumed_on_a_machine_whose_clock_is_behind_goes_on_in_time(tmp_path: Path):
    folder = tmp_path / "r"
    folder.mkdir()
    journal = Journal(folder, clock=lambda: NOW + 1000)
    journal.append(STARTED)
    journal.release()
    ticks = iter([NOW, NOW + 2.0, NOW + 5.0])
    again = Journal(folder, clock=lambda: next(ticks))
    for _ in range(3):
        again.append(AssistantMessage(step=1))
    again.release()
    times = [record.time for record in read_journal(folder).records]
    assert times == [NOW + 1000, NOW + 1000, NOW + 1002, NOW + 1005]


def test_a_wall_clock_that_is_set_back_changes_no_duration(monkeypatch, tmp_path: Path):
    import time

    journal = MemoryJournal(tmp_path)
    first = journal.now()
    monkeypatch.setattr(time, "time", lambda: 5.0)
    assert 0 <= journal.now() - first < 60
    assert 0 <= now() - first < 60
