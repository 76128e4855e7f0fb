"""Episodes: an oracle plays generated tasks through the real loop, and what passes is kept.

    episode = asyncio.run(record_episode(Seed(Split.TRAIN, 7), "hops"))
    sequences = render_episode(episode, chat_format)  # ids, and what of them is learned
    model = ScriptedModel(episode.tape())

See docs/episodes.md.
"""

from __future__ import annotations

from perilune.train.episodes.batch import record_all, record_episodes
from perilune.train.episodes.episode import (
    Episode,
    encode_episode,
    read_episodes,
)
from perilune.train.episodes.record import Plan, Rejected, record_episode
from perilune.train.episodes.render import Rendered, render_episode

__all__ = [
    "Episode",
    "Plan",
    "Rejected",
    "Rendered",
    "encode_episode",
    "read_episodes",
    "record_all",
    "record_episode",
    "record_episodes",
    "render_episode",
]
