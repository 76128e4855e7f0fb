"""What is known of a run whose facts are checked: asked, looked for, found, computed, answered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from perilune.agent.checks.check import Proposal, plain_text
from perilune.agent.checks.question import Asked, read_question
from perilune.agent.checks.records import Record
from perilune.agent.evidence.passages import GROUP, ids_in
from perilune.errors import UsageError
from perilune.search.almanac.text import key

_SEARCHING = frozenset({"lookup", "search"})
MOST_MEANT = 8
"""Articles that a question may be about: a name is often that of several places."""
ALMANAC = "almanac:"


@dataclass(slots=True)
class Case:
    """All that is known of a run: what was asked, looked for, found, computed and answered."""

    asked: Asked
    records: list[Record]
    aliases: dict[str, set[str]]
    answer: str
    cited: tuple[str, ...]
    queries: list[tuple[str, str, str]] = field(default_factory=list)
    """Tool, query and result of each search."""
    computed: list[tuple[str, str]] = field(default_factory=list)
    """Code and output of each `python`."""
    meant: list[str] = field(default_factory=list)
    """Addresses of the almanac's articles that the question names."""

    def reached(self) -> set[str]:
        """Keys of the entities that are named in the question, and of those that they lead to: the
        country of a city that is named, the mayor of that one."""
        return self._followed()[0]

    def on_the_way(self) -> set[str]:
        """Attributes that lead from an entity that is named to others: what is asked for in the end
        may be another."""
        return self._followed()[1]

    def _followed(self) -> tuple[set[str], set[str]]:
        found, way = {key(each) for each in self.asked.names}, set()
        links = [(key(r.entity), key(r.value), r) for r in self.records if r.number is None]
        entities = {key(each.entity) for each in self.records}
        while True:
            more = set()
            for entity, value, record in links:
                for one, other in ((entity, value), (value, entity)):
                    if one in found and other in entities and other not in found:
                        more.add(other)
                        way.add(record.attribute)
            if not more:
                return found, way
            found |= more


def case_of(proposal: Proposal, records: list[Record]) -> Case:
    """A proposal as this check looks at it."""
    question = list(proposal.said())[-1] if list(proposal.said()) else ""
    aliases = _aliases(records)
    case = Case(
        read_question(question, records, aliases),
        records,
        aliases,
        GROUP.sub("", proposal.text).strip(),
        ids_in(proposal.text),
    )
    for state in (proposal.state, *proposal.others):
        results = {
            str(message.get("tool_call_id", "")): plain_text(message.get("content") or "")
            for message, origin in zip(state.messages, state.origins, strict=True)
            if origin == "tool"
        }
        for message in state.messages:
            for call in message.get("tool_calls") or ():
                name, result = call["function"]["name"], results.get(str(call["id"]), "")
                arguments = _arguments(call["function"]["arguments"])
                if name in _SEARCHING:
                    words = [arguments.get("query", ""), *arguments.get("also", ())]
                    case.queries.append((name, " ".join(map(str, words)), result))
                elif name == "python":
                    case.computed.append((str(arguments.get("code", "")), result))
    case.meant = _meant(question) if any(r.address.startswith(ALMANAC) for r in records) else []
    if case.asked.near and case.meant:
        # What is only nearly written gives way to what is named.
        meant = [r.entity for r in records if r.address in case.meant[:MOST_MEANT]]
        case.asked.names = list(dict.fromkeys(meant))
    return case


def _arguments(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text or "{}")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _aliases(records: list[Record]) -> dict[str, set[str]]:
    """Other names of the records' entities: those that the almanac knows for its own."""
    addresses = {each.entity: each.address for each in records if each.address.startswith(ALMANAC)}
    if not addresses:
        return {}
    from perilune.search.almanac import open_almanac

    try:
        almanac = open_almanac()
        return {entity: almanac.names_of(address) for entity, address in addresses.items()}
    except UsageError:
        return {}


def _meant(question: str) -> list[str]:
    from perilune.search.almanac import open_almanac

    try:
        return open_almanac().meant_by(question)
    except UsageError:
        return []
