"""Pictures through the whole engine: parity with the reference, caches, the process boundary."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from perilune import load_model
from perilune.chat.deltas import FinishReason
from perilune.chat.media import MediaLimits
from perilune.chat.media.reader import MediaReader
from perilune.engine.async_engine import AsyncEngine
from perilune.engine.conversation import Conversation, encode_conversation
from perilune.engine.core_client import ProcessCoreClient
from perilune.engine.core_messages import Add
from perilune.engine.engine import Engine
from perilune.engine.llm import LLM
from perilune.engine.load import plan_memory
from perilune.engine.media import MediaFeature, RequestMedia
from perilune.engine.media_decoder import MediaDecoder
from perilune.engine.options import EngineOptions
from perilune.engine.outputs import SequenceOutput
from perilune.engine.request import OutputFormat
from perilune.engine.sampling_params import SamplingParams
from perilune.engine.wire import command_frame, read_command, unpack
from perilune.errors import (
    ContextLengthError,
    EngineDeadError,
    MediaError,
    MediaFault,
    MediaRequestError,
    RequestError,
)
from perilune.model import generate
from perilune.model.model import KimiK2Model
from perilune.runner.batch import ForwardBatch
from perilune.vision_config import VisionConfig
from tests.chat.media.needs import needs_pyav
from tests.chat.media.samples import clip, picture, saved

from .fakes import answers, check_pages, run
from .models import FORWARDS, VOCAB

Message = dict[str, Any]
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
OPTIONS: dict[str, Any] = {
    "exact": True, "cache_tokens": 2048, "max_sequences": 4, "max_context": 1500, "bandwidth": 1e9,
}  # fmt: skip


def image(width: int = 60, height: int = 40, seed: int = 0, data: bytes | None = None) -> Message:
    data = saved(picture(width, height, seed=seed), "PNG") if data is None else data
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def user(*parts: str | Message) -> Message:
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": "user", "content": content}


def damaged() -> bytes:
    """A PNG whose structure is whole and whose pixels are none."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(
            ">I", zlib.crc32(kind + body)
        )  # fmt: skip

    head = struct.pack(">IIBBBBB", 60, 40, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100) + b"\0" * 400
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.fixture(scope="module")
def reference(bf16_folder: Path) -> KimiK2Model:
    return load_model(bf16_folder, dtype=torch.float32)


@pytest.fixture(scope="module", params=FORWARDS)
def seeing(bf16_folder: Path, request: pytest.FixtureRequest) -> Iterator[LLM]:
    """Both runners; steps that end within a picture, pictures that take several steps."""
    native = request.param == "native"
    with LLM(
        bf16_folder, native=native, max_batch_tokens=7, max_encoder_patches=20, **OPTIONS
    ) as llm:
        yield llm


def encoded(llm: LLM, *messages: Message) -> Conversation:
    assert llm.chat_format is not None
    return encode_conversation(llm.chat_format, messages, media=llm.media_reader)


@torch.inference_mode()
def pictures_of(model: KimiK2Model, reader: MediaReader, media: RequestMedia) -> torch.Tensor:
    decoder = MediaDecoder(reader)
    patches = [decoder.submit(media.sources[f.source], f).result() for f in media.features]
    decoder.close()
    return model.encode_pictures(torch.cat(patches), [f.grid for f in media.features])


@torch.inference_mode()
def check_greedy(
    model: KimiK2Model, reader: MediaReader, asked: Conversation, tokens: list[int]
) -> None:
    """Each token is the one that the reference picks there, but for the placeholder."""
    pictures = None if asked.media is None else pictures_of(model, reader, asked.media)
    ids = torch.tensor([[*asked.prompt, *tokens][:-1]])
    logits = model(ids, pictures=pictures)[0, len(asked.prompt) - 1 :].float()
    assert model.vision is not None
    logits[:, model.vision.media_token_id] = -torch.inf
    assert tokens == logits.argmax(-1).tolist()


# --- parity ------------------------------------------------------------------------------------


def test_many_at_once_are_the_reference(seeing: LLM, reference: KimiK2Model) -> None:
    """Greedy tokens identical, logits within 1e-4: chunks within pictures, shared and not."""
    seeing.engine.clear_prefix_cache()
    reader = seeing.media_reader
    assert reader is not None
    conversations = [
        [user("the ", image(60, 40, 1), "in")],
        [user("the ", image(60, 40, 2), "in")],
        [user("the ", image(60, 40, 1), "in", image(150, 100, 3), "?")],
        [user(image(400, 20, 4), image(14, 14, 5), image(60, 40, 1))],
        [user("no picture")],
    ]
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, logprobs=VOCAB)
    results = seeing.chat(conversations, params)
    for messages, result in zip(conversations, results, strict=True):
        asked = encoded(seeing, *messages)
        (answer,) = result.answers
        assert len(answer.token_ids) == 12
        check_greedy(reference, reader, asked, answer.token_ids)
        pictures = None if asked.media is None else pictures_of(reference, reader, asked.media)
        with torch.inference_mode():
            ids = torch.tensor([[*asked.prompt, *answer.token_ids][:-1]])
            logits = reference(ids, pictures=pictures)[0, len(asked.prompt) - 1 :].float()
        wanted = logits.log_softmax(-1)
        for row, entry in enumerate(answer.logprobs):
            found = torch.full((VOCAB,), torch.nan)
            places, values = zip(*entry.top, strict=True)
            found[list(places)] = torch.tensor(values)
            assert float((found - wanted[row]).abs().max()) <= 1e-4
    check_pages(seeing.engine)


def test_random_conversations_under_pressure(seeing: LLM, reference: KimiK2Model) -> None:
    """Few pages, several answers, priorities: preempted within pictures, each as alone."""
    engine, reader = seeing.engine, seeing.media_reader
    assert reader is not None
    engine.clear_prefix_cache()
    rng = random.Random(3)
    asked: dict[str, Conversation] = {}
    outputs: list[SequenceOutput] = []
    kept = [engine.pages.allocate() for _ in range(24)]  # leaves 8 of 32
    for _ in range(9):
        parts: list[str | Message] = [rng.choice(["the in ", "x"])]
        for _ in range(rng.randint(1, 3)):
            parts += [image(*rng.choice([(60, 40), (150, 100), (190, 170)]), rng.randrange(2))]
        one = encoded(seeing, user(*parts))
        params = SamplingParams(
            max_tokens=rng.choice([3, 30]), temperature=0, n=rng.choice([1, 2]), ignore_eos=True
        )
        name = engine.add_request(
            one.prompt, params, output=OutputFormat.CHAT, media=one.media,
            priority=rng.choice([0, 1]),
        )  # fmt: skip
        asked[name] = one
        for _ in range(rng.randint(0, 30)):
            outputs += engine.step()
    outputs += run(engine)
    assert sum(o.metrics.preemptions for o in outputs if o.metrics is not None) > 0
    found = answers(outputs)
    for (name, _), tokens in found.items():
        check_greedy(reference, reader, asked[name], tokens)
    for page in kept:
        engine.pages.release(page)


def test_it_is_what_the_reference_generates(seeing: LLM, reference: KimiK2Model) -> None:
    """`model.generate` with `pictures=`, as far as it says no placeholder."""
    reader = seeing.media_reader
    assert reader is not None and reference.vision is not None
    pad, compared = reference.vision.media_token_id, 0
    for seed in range(4):
        asked = encoded(seeing, user("an ", image(90, 61, seed), "er ", image(30, 20, seed)))
        assert asked.media is not None
        pictures = pictures_of(reference, reader, asked.media)
        chosen = generate(reference, asked.prompt, max_tokens=32, pictures=pictures).token_ids
        if pad in chosen:
            chosen = chosen[: chosen.index(pad)]
        params = SamplingParams(max_tokens=32, temperature=0, ignore_eos=True)
        seeing.engine.add_request(asked.prompt, params, media=asked.media)
        (found,) = answers(run(seeing.engine)).values()
        assert found[: len(chosen)] == chosen
        compared += len(chosen)
    assert compared > 20


@needs_pyav
def test_a_clip(seeing: LLM, reference: KimiK2Model) -> None:
    reader = seeing.media_reader
    assert reader is not None
    data = base64.b64encode(clip("mov")).decode()
    video = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}
    before = seeing.engine.media_metrics.encoded
    result = seeing.chat([user("at ", video, "?")], GREEDY)[0]
    asked = encoded(seeing, user("at ", video, "?"))
    assert asked.media is not None
    check_greedy(reference, reader, asked, result.answers[0].token_ids)
    assert seeing.engine.media_metrics.encoded - before == len(asked.media.features)


# --- caches ------------------------------------------------------------------------------------


def test_a_second_turn_over_eight_pictures_computes_none_again(seeing: LLM) -> None:
    seeing.engine.clear_prefix_cache()
    metrics = seeing.engine.media_metrics
    first = user("look", *[image(60, 40, 100 + n) for n in range(8)], "?")
    before = metrics.decoded, metrics.encoded, metrics.reused
    said = seeing.chat([first], GREEDY)[0]
    assert (metrics.decoded, metrics.encoded) == (before[0] + 8, before[1] + 8)
    answer = {"role": "assistant", "content": said.text or "x"}
    again = seeing.chat([first, answer, user("and?")], GREEDY)[0]
    assert (metrics.decoded, metrics.encoded) == (before[0] + 8, before[1] + 8)
    assert metrics.reused == before[2] + 8
    assert again.metrics is not None and said.metrics is not None
    assert again.metrics.cached_tokens >= said.metrics.prompt_tokens - 8
    assert said.metrics.media_tokens == 8 * 6 == again.metrics.media_tokens
    # With another text before them, their rows are there though no page is.
    hits = metrics.hits
    seeing.chat([user("another beginning", *[image(60, 40, 100 + n) for n in range(8)])], GREEDY)
    assert metrics.encoded == before[1] + 8 and metrics.hits == hits + 8
    status = seeing.engine.status()
    assert status.pictures_encoded == metrics.encoded and status.encoder_cache_bytes > 0


def test_equal_text_and_another_picture_share_nothing_behind_it(seeing: LLM) -> None:
    engine = seeing.engine
    engine.clear_prefix_cache()
    tail = "the in an er " * 20
    results = []
    for seed in (1, 2):
        asked = encoded(seeing, user("x", image(190, 170, seed), tail))
        assert asked.media is not None
        results.append((asked.prompt, asked.media.features[0].start))
        engine.add_request(asked.prompt, GREEDY, media=asked.media, request_id=f"r{seed}")
    assert results[0] == results[1]  # token by token the same
    pages: dict[str, list[int]] = {}
    while engine.has_work:
        engine.step()
        for sequence in engine.scheduler.running:
            if sequence.num_output:
                pages[sequence.request.request_id] = list(sequence.pages)
    assert not set(pages["r1"]) & set(pages["r2"]) and len(pages["r1"]) > 3
    # And later, when both are in the cache: each finds all of its own, a third one the text before.
    for seed, found in ((1, "all"), (2, "all"), (3, "text")):
        asked = encoded(seeing, user("x", image(190, 170, seed), tail))
        engine.add_request(asked.prompt, GREEDY, media=asked.media)
        (*_, last) = run(engine)
        assert last.metrics is not None
        start = results[0][1]
        if found == "all":
            assert last.metrics.cached_tokens >= len(asked.prompt) - 8
        else:
            assert last.metrics.cached_tokens <= start
    check_pages(engine)


def test_a_large_picture_does_not_hold_up_a_stream(bf16_folder: Path) -> None:
    """While it is encoded, a few blocks a step, the other answer gets a token each step."""
    with LLM(bf16_folder, max_encoder_patches=100, speculative_tokens=0, **OPTIONS) as llm:
        engine = llm.engine
        long = SamplingParams(max_tokens=400, temperature=0, ignore_eos=True)
        engine.add_request([1, 2, 3], long, request_id="stream")
        for _ in range(3):
            engine.step()
        asked = encoded(llm, user(image(600, 600)))
        assert asked.media is not None and asked.media.features[0].patches > 1500
        engine.add_request(asked.prompt, GREEDY, media=asked.media, request_id="large")
        during = 0
        while engine.media_metrics.encoded == 0:
            outputs = engine.step()
            assert [o.request_id for o in outputs] == ["stream"]
            during += engine._media_encoder is not None and bool(engine._media_encoder._encoding)
        assert during >= 2  # of the tower's two blocks one a step
        engine.cancel("stream")
        run(engine)


# --- what an answer may hold -------------------------------------------------------------------


def test_pads_are_never_said(seeing: LLM, reference: KimiK2Model) -> None:
    assert reference.vision is not None and reference.vision.media_token_id is not None
    pad = reference.vision.media_token_id
    params = SamplingParams(max_tokens=6, temperature=1.0, seed=1, ignore_eos=True, n=3,
                            logit_bias={pad: 100.0})  # fmt: skip
    for result in (seeing.chat([user("x", image())], params)[0], seeing.generate("x", params)[0]):
        assert len(result.answers) == 3
        assert all(pad not in answer.token_ids for answer in result.answers)
    forced = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True, logit_bias={pad: 100.0})
    plain = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
    one, two = (seeing.generate("x", each)[0].answers[0].token_ids for each in (forced, plain))
    assert one == two


def test_nothing_is_guessed_over_a_picture() -> None:
    from perilune.engine.speculation import NgramSpeculator, Survival
    from perilune.engine.text_memory import TextMemory

    memory = TextMemory()
    speculator = NgramSpeculator(Survival(), memory)
    rows = list(range(-1, -9, -1))
    text = [5, 6, 7, *rows, 8, 9, 5, 6, 7]
    assert speculator.propose(text, 4, 0.0) == []  # what followed is a row of a picture
    guesses = NgramSpeculator(Survival(), memory).propose([*text, 8, 9], 4, 0.0)
    assert guesses and min(guesses) >= 0
    assert NgramSpeculator(Survival(), memory).propose([5, -1, 6, 5, -1], 4, 0.0) == []
    memory.learn([1, 2, *rows, 3, 4, 11], 1)
    assert all(min(context) >= 0 for context in memory._latest)


# --- refusals ----------------------------------------------------------------------------------


def test_a_model_without_eyes(bf16_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(MediaReader, "open", refuse)
    with LLM(bf16_folder, vision=False, **OPTIONS) as llm:
        assert llm.media_reader is None
        with pytest.raises(MediaError, match=r"messages\[0\]\.content\[1\].*text only") as raised:
            llm.chat([user("x", image(data=b"no picture"))])
        assert raised.value.kind is MediaFault.NO_EYES and not llm.engine.has_work
        feature = MediaFeature(0, "0" * 64, (1, 2, 2), 0)
        with pytest.raises(MediaRequestError, match="text only"):
            llm.engine.add_request([1], GREEDY, media=RequestMedia((), (feature,)))
    engine = AsyncEngine(bf16_folder, vision=False, **OPTIONS)
    assert engine.media_reader is None


def test_pads_count_as_context(seeing: LLM) -> None:
    asked = encoded(seeing, user(*[image(600, 600, n) for n in range(4)]))
    assert asked.media is not None and len(asked.prompt) > asked.media.tokens > 1500
    with pytest.raises(ContextLengthError, match=f"{asked.media.tokens} of them of pictures"):
        seeing.chat([user(*[image(600, 600, n) for n in range(4)])], GREEDY)
    assert not seeing.engine.has_work


def test_limits_are_those_of_the_options(bf16_folder: Path) -> None:
    limits = MediaLimits(images=1)
    with LLM(bf16_folder, media=limits, **OPTIONS) as llm:
        with pytest.raises(MediaError) as raised:
            llm.chat([user(image(), image())])
        assert raised.value.kind is MediaFault.COUNT and raised.value.limit == 1


def test_damaged_pixels_fail_their_request_alone(seeing: LLM) -> None:
    engine = seeing.engine
    bad, good = encoded(seeing, user(image(), image(data=damaged()))), encoded(seeing, user("x"))
    engine.add_request(bad.prompt, GREEDY, media=bad.media, request_id="bad")
    engine.add_request(good.prompt, GREEDY, request_id="good")
    outputs = run(engine)
    (failed,) = (o for o in outputs if o.finish_reason is FinishReason.ERROR)
    assert failed.request_id == "bad" and failed.error_code == MediaRequestError.code
    assert failed.error is not None and "picture 2 of 2" in failed.error
    assert len(answers(outputs)["good", 0]) == 12
    with pytest.raises(MediaRequestError, match="the picture"):
        seeing.chat([user(image(data=damaged()))], GREEDY)
    check_pages(engine)


@pytest.mark.parametrize(
    "changes",
    [
        {"start": 1}, {"start": 10_000}, {"grid": (1, 4, 8)}, {"grid": (1, 3, 6)}, {"source": 1},
        {"grid": (9, 4, 6)}, {"digest": "x" * 64}, {"digest": "00"}, {"index": -1}, {"start": -1},
    ],
)  # fmt: skip
def test_media_that_does_not_fit_the_prompt(seeing: LLM, changes: dict[str, Any]) -> None:
    from dataclasses import replace

    asked = encoded(seeing, user(image()))
    assert asked.media is not None
    wrong = replace(asked.media, features=(replace(asked.media.features[0], **changes),))
    with pytest.raises(RequestError, match="the media of the request"):
        seeing.engine.add_request(asked.prompt, GREEDY, media=wrong)


def test_a_digest_of_other_bytes_is_found_out(seeing: LLM) -> None:
    from dataclasses import replace

    asked = encoded(seeing, user(image(seed=77)))
    assert asked.media is not None
    wrong = replace(asked.media, features=(replace(asked.media.features[0], digest="1" * 64),))
    seeing.engine.add_request(asked.prompt, GREEDY, media=wrong)
    (output,) = run(seeing.engine)
    assert output.error is not None and "not what was announced" in output.error


# --- processes ---------------------------------------------------------------------------------


def test_sources_cross_as_bytes_and_once(seeing: LLM) -> None:
    data = saved(picture(60, 40), "PNG")
    asked = encoded(seeing, user(image(data=data), "x", image(data=data)))
    assert asked.media is not None
    assert len(asked.media.sources) == 1 and len(asked.media.features) == 2
    frame = command_frame(Add("a", asked.prompt, GREEDY, media=asked.media))
    assert frame.count(data) == 1 and len(frame) < len(data) + 2000
    read = read_command(*unpack(frame[4:]))
    assert isinstance(read, Add) and read.media is not None
    assert read.media.features == asked.media.features
    assert read.media.sources[0].data == data and read.media.sources[0].kind == "image"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_streams(bf16_folder: Path, reference: KimiK2Model, isolation: str) -> None:
    """A picture, a damaged one, one that is cancelled; in a process: death, and once more."""

    async def talk() -> None:
        async with AsyncEngine(bf16_folder, isolation=isolation, **OPTIONS) as engine:  # type: ignore[arg-type]
            messages = [user("the ", image(60, 40, 1), "in")]
            assert engine.chat_format is not None and engine.media_reader is not None
            asked = encode_conversation(engine.chat_format, messages, media=engine.media_reader)
            assert engine.count_tokens(messages) == len(asked.prompt)

            async def ask() -> list[int]:
                outputs = [output async for output in engine.chat(messages, GREEDY)]
                return [token for output in outputs for token in output.tokens]

            wanted = await ask()
            assert len(wanted) == 12
            check_greedy(reference, engine.media_reader, asked, wanted)
            with pytest.raises(MediaRequestError, match="the picture"):
                _ = [o async for o in engine.chat([user(image(data=damaged()))], GREEDY)]
            with pytest.raises(MediaError):
                _ = [o async for o in engine.chat([user(image(data=b"what"))], GREEDY)]
            async for _ in engine.chat([user(image(300, 300, 9))], GREEDY):
                break  # leaves it
            assert await ask() == wanted
            assert engine.status is not None
            assert engine.status.pictures_reused >= 1 and engine.status.pictures_encoded >= 1
            core = engine._core
            if isinstance(core, ProcessCoreClient):
                stream = engine.chat(messages, SamplingParams(max_tokens=900, ignore_eos=True))
                await anext(stream)
                assert core.process_id is not None
                os.kill(core.process_id, signal.SIGKILL)
                with pytest.raises(EngineDeadError):
                    async for _ in stream:
                        pass
                assert await ask() == wanted

    asyncio.run(talk())


def test_a_restart_begins_with_empty_caches(seeing: LLM) -> None:
    engine = seeing.engine
    asked = encoded(seeing, user(image(190, 170, 50)))
    engine.add_request(asked.prompt, GREEDY, media=asked.media)
    engine.step()  # it is at work when the engine is given up
    other: Engine = engine.restarted()
    assert other.media_metrics.encoded == 0 and other.status().encoder_cache_bytes == 0
    other.add_request(asked.prompt, GREEDY, media=asked.media)
    assert len(answers(run(other))["request-1", 0]) == 12
    seeing.engine = other


# --- memory ------------------------------------------------------------------------------------


def test_the_plan_counts_what_pictures_take() -> None:
    from perilune.config import ModelConfig

    options = EngineOptions(cache_tokens=640)
    blind = plan_memory(ModelConfig(), 0, options, None)
    plan = plan_memory(ModelConfig(), 0, options, None, VisionConfig())
    assert blind.encoder_cache == 0 and plan.encoder_cache == 1 << 30
    assert plan.workspace > blind.workspace and "encoded pictures" in str(plan)
    small = EngineOptions(cache_tokens=640, encoder_cache_bytes=0)
    least = plan_memory(ModelConfig(), 0, small, None, VisionConfig()).encoder_cache
    assert least == 4464 * 7168 * 2  # the largest picture


def test_vectors_reach_the_runner_in_its_own_type(bf16_folder: Path) -> None:
    """Without `exact` rows are kept in bfloat16, half the bytes."""
    options = {**OPTIONS, "exact": False}
    with LLM(bf16_folder, **options) as llm:
        seen: list[torch.dtype] = []
        execute = llm.engine.runner.execute

        def spy(batch: ForwardBatch, cache: Any) -> torch.Tensor:
            if batch.vectors is not None:
                seen.append(batch.vectors.values.dtype)
            return execute(batch, cache)

        llm.engine.runner.execute = spy  # type: ignore[method-assign]
        llm.chat([user(image())], GREEDY)
        assert seen and set(seen) == {torch.bfloat16}
        assert llm.engine.status().encoder_cache_bytes == 6 * 128 * 2
