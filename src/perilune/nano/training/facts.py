"""The facts of a world as the `lookup` tool searches them."""

from __future__ import annotations

from functools import lru_cache

from perilune.search.facts import Fact, Facts
from perilune.world.articles import report_title
from perilune.world.seed import Seed
from perilune.world.world import World, generate_world


@lru_cache(maxsize=16)
def facts_of_seed(seed: Seed) -> Facts:
    """The facts of the seed's world; a disputed one once for each source, dated."""
    return Facts(world_facts(generate_world(seed)))


def world_facts(world: World) -> list[Fact]:
    """Everything that the articles of a world tell, in their order."""
    facts = []
    for name in world.entities:
        kind = world.kind_of(name)
        for attribute in kind.attributes:
            key = (name, attribute.name)
            for report in world.disputed.get(key, ()):
                title = report_title(report.source, report.year)
                facts.append(
                    Fact(
                        name,
                        attribute.name,
                        report.fact.amount,
                        kind.name,
                        attribute.labels,
                        str(report.year),
                        report.source,
                        f"world:{world.article_ids[title]}",
                    )
                )
            settled = world.settled(name, attribute.name)
            if settled:
                address = f"world:{world.article_ids[name]}"
                facts.append(
                    Fact(
                        name,
                        attribute.name,
                        settled.amount,
                        kind.name,
                        attribute.labels,
                        address=address,
                    )
                )
    return facts
