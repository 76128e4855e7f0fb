"""One search in several wordings, each ranked by the provider and, where that is here, by meaning.

More is asked for than is wanted; reciprocal rank over all rankings decides what is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perilune.search.corpus import Hit
from perilune.search.fusion import fuse
from perilune.search.meaning import SentenceEncoder, by_meaning
from perilune.search.providers import SearchProvider

POOL = 3
"""How many times more hits are looked at than are wanted, when there is something to fuse."""
MOST = 20


async def fused_search(
    provider: SearchProvider,
    queries: Sequence[str],
    count: int,
    *,
    encoder: SentenceEncoder | None = None,
) -> list[Hit]:
    """The best hits over all wordings, with an `encoder` ranked by meaning too.

    One wording without an encoder is the provider's own ranking. Raises `ToolError` as it does.
    """
    queries = list(dict.fromkeys(queries))
    if encoder is None and len(queries) == 1:
        return await provider.search(queries[0], count)
    pool = min(MOST, count * POOL)
    found = await asyncio.gather(*(provider.search(each, pool) for each in queries))
    hits = {hit.url: hit for hits in reversed(found) for hit in hits}
    rankings = [[hit.url for hit in hits] for hits in found]
    if encoder is not None and hits:
        addresses = fuse(rankings)
        texts = [f"{hits[each].title}. {hits[each].excerpt}" for each in addresses]
        orders = [await asyncio.to_thread(by_meaning, query, texts, encoder) for query in queries]
        # First, so that meaning settles ties.
        rankings = [[addresses[place] for place in order] for order in orders] + rankings
    return [hits[each] for each in fuse(rankings)[:count]]
