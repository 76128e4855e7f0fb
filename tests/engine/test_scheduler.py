"""What the scheduler decides, case by case; that it never shows in the text is `test_schedules`."""

from __future__ import annotations

import pytest

from perilune.chat.deltas import FinishReason
from perilune.engine.sampling_params import SamplingParams
from perilune.engine.scheduler import SchedulerConfig
from perilune.errors import EngineError, RequestError

from .fakes import FakeForward, answers, check_pages, fake_engine, reference, run


def params(max_tokens: int = 5, **values: object) -> SamplingParams:
    return SamplingParams(
        **{"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "seed": 1, **values}  # type: ignore[arg-type]
    )


def test_prompts_are_cut_into_chunks_beside_running_answers() -> None:
    engine = fake_engine(max_batch_tokens=10, pages=20)
    assert isinstance(engine.runner, FakeForward)
    engine.add_request([1, 2, 3], params(50), request_id="short")
    engine.step()
    engine.add_request([1] * 30, params(), request_id="long")
    rows = []
    produced = []
    for _ in range(5):
        before = engine.runner.rows
        outputs = engine.step()
        rows.append(engine.runner.rows - before)
        produced.append([o.request_id for o in outputs])
    # One row of every step is the answer's; the prompt gets the other nine: 9 + 9 + 9 + 3.
    assert rows == [10, 10, 10, 4, 2]
    assert produced == [["short"]] * 3 + [["short", "long"]] * 2


def test_priority_goes_first_and_takes_the_memory() -> None:
    engine = fake_engine(pages=4, max_batch_tokens=256)
    engine.add_request([1] * 150, params(40), priority=1, request_id="later")
    outputs = engine.step()
    engine.add_request([2] * 150, params(3), priority=0, request_id="now")
    outputs += run(engine)
    ends = [o for o in outputs if o.finish_reason is not None]
    assert [o.request_id for o in ends] == ["now", "later"]
    assert ends[1].metrics is not None and ends[1].metrics.preemptions == 1
    for request_id, prompt, length in (("now", [2] * 150, 3), ("later", [1] * 150, 40)):
        expected = reference(prompt, params(length), seed=1, max_context=1024)
        assert answers(outputs)[request_id, 0] == expected


def test_answers_of_one_request_share_the_prompt_and_copy_when_they_write() -> None:
    engine = fake_engine(pages=12, max_sequences=3)
    engine.add_request([5] * 130, params(3, n=3, temperature=1.0))
    while not engine.step():
        assert engine.pages.num_held <= 3
    check_pages(engine)
    assert engine.pages.num_held == 3  # the prompt, once
    engine.step()
    assert engine.pages.num_held == 5  # two full pages shared, three last pages
    run(engine)
    assert engine.pages.num_held == 0


def test_a_known_prefix_is_not_computed_again() -> None:
    engine = fake_engine(pages=12)
    assert isinstance(engine.runner, FakeForward)
    engine.add_request([5] * 200, params(1))
    (first,) = run(engine)
    assert first.metrics is not None and first.metrics.cached_tokens == 0
    rows = engine.runner.rows
    engine.add_request([5] * 200, params(1))
    (second,) = run(engine)
    assert second.tokens == first.tokens
    assert second.metrics is not None and second.metrics.cached_tokens == 199
    assert engine.runner.rows - rows == 1
    # Another salt is another tenant.
    engine.add_request([5] * 200, params(1), cache_salt="other")
    (third,) = run(engine)
    assert third.metrics is not None and third.metrics.cached_tokens == 0


def test_cancellation_frees_the_pages_at_once() -> None:
    engine = fake_engine()
    engine.add_request([1] * 100, params(50, n=2), request_id="a")
    engine.add_request([1] * 100, params(50), request_id="b")
    engine.step()
    engine.step()
    engine.step()
    assert engine.cancel("a") and not engine.cancel("a") and not engine.cancel("unknown")
    check_pages(engine)
    outputs = engine.step()
    reasons = {(o.request_id, o.index): o.finish_reason for o in outputs}
    assert reasons["a", 0] is FinishReason.CANCELLED
    assert "b" in {o.request_id for o in outputs}
    run(engine)


@pytest.mark.parametrize(
    ("prompt", "values", "param"),
    [
        ([], {}, "prompt"), ([99], {}, "prompt"), ([-1], {}, "prompt"), ([1] * 2000, {}, "prompt"),
        ([1] * 800, {}, "prompt"), ([1], {"n": 5}, "n"), ([1], {"stop_token_ids": (99,)}, None),
        ([1], {"stop": ("x",)}, "stop"),
    ],
)  # fmt: skip
def test_what_can_never_be_served_is_refused(
    prompt: list[int], values: dict[str, object], param: str | None
) -> None:
    engine = fake_engine(pages=12, max_sequences=4, max_context=1024)
    with pytest.raises(RequestError) as error:
        engine.add_request(prompt, params(**values))
    assert param is None or error.value.param == param
    assert not engine.has_work


def test_a_request_id_is_taken_once() -> None:
    engine = fake_engine()
    engine.add_request([1], params(), request_id="a")
    with pytest.raises(RequestError, match="under way"):
        engine.add_request([1], params(), request_id="a")


def test_the_context_ends_an_answer() -> None:
    engine = fake_engine(max_context=20)
    engine.add_request([1] * 15, params(500))
    outputs = run(engine)
    assert len(answers(outputs)["request-1", 0]) == 5
    assert outputs[-1].finish_reason is FinishReason.LENGTH


def test_contradictory_configuration_is_refused() -> None:
    with pytest.raises(EngineError, match="max_batch_tokens"):
        SchedulerConfig(max_batch_tokens=3, max_sequences=4)
    with pytest.raises(EngineError):
        SchedulerConfig(max_sequences=0)


def test_times_are_those_of_the_clock() -> None:
    engine = fake_engine()
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    engine._clock = clock
    engine.add_request([1] * 100, params(4))
    outputs = run(engine)
    metrics = outputs[-1].metrics
    assert metrics is not None
    assert metrics.queue_seconds == 1
    assert metrics.prefill_seconds is not None and metrics.prefill_seconds > 4
    assert metrics.decode_seconds is not None and metrics.decode_seconds > metrics.prefill_seconds
    assert (metrics.prompt_tokens, metrics.output_tokens) == (100, 4)
    assert metrics.acceptance is None
