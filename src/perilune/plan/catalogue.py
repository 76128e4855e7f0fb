"""What there is to buy: parts and machines made of them, from the data files and a user's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perilune.errors import UsageError
from perilune.plan.figure import Figure
from perilune.plan.machine import Kind, Link, Machine, Split, Tier
from perilune.plan.reading import DATA, Entry, read_toml

SECTIONS = ("cards", "memory", "drives", "boxes", "links", "buses", "machines")


@dataclass(frozen=True, slots=True)
class Part:
    """A card, a memory system, a drive or a box. Units as in `data/catalogue.toml`."""

    title: str
    bandwidth: Figure
    memory: Figure | None = None
    watts: Figure | None = None
    price: Figure | None = None
    price_per_gb: Figure | None = None
    rent: Figure | None = None
    operations: Figure | None = None
    most: Figure | None = None  # bytes of memory that one socket takes


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything of the data files by section and name; machines as their specifications."""

    parts: Mapping[str, Mapping[str, Part]]
    links: Mapping[str, Link]
    buses: Mapping[str, Figure]
    machines: Mapping[str, Mapping[str, Any]]
    usable: Mapping[str, Figure]
    usd_per_eur: Figure | None
    origins: tuple[str, ...] = field(default=())

    def machine(self, name: str) -> Machine:
        """Raises UsageError for an unknown name, with the nearest ones."""
        if name not in self.machines:
            raise _unknown("hardware", name, self.machines)
        return self.assemble(name, self.machines[name])

    def part(self, section: str, name: str, where: str) -> Part:
        if name not in self.parts[section]:
            raise _unknown(f"{where}: entry of [{section}]", name, self.parts[section])
        return self.parts[section][name]

    def assemble(self, name: str, spec: Mapping[str, Any]) -> Machine:
        """A machine of its specification (the keys of [machines.NAME]).

        Raises UsageError for keys, names and numbers that make no sense.
        """
        return _Assembly(self, name, spec).machine()


class _Assembly:
    """Adds up what one specification names."""

    def __init__(self, catalogue: Catalogue, name: str, spec: Mapping[str, Any]) -> None:
        self.catalogue = catalogue
        self.name = name
        self.entry = Entry(dict(spec), f"hardware {name}")
        self.tiers: list[Tier] = []
        self.watts: list[Figure | None] = []
        self.prices: list[Figure] = []
        self.rents: list[Figure | None] = []
        self.unpriced: list[str] = []
        self.sources: list[str] = []

    def machine(self) -> Machine:
        entry = self.entry
        title = entry.text("title", self.name)
        usable = entry.number("usable", -1.0)
        if usable > 1:
            raise entry.wrong("usable", f"is {usable:g}, a share of the memory up to 1")
        self._cards(usable)
        self._box(usable)
        self._ram(usable)
        self._drives()
        nodes = entry.count("nodes", 1)
        link = self._link(nodes)
        split = Split(entry.one_of("split", tuple(Split), Split.PIPELINE))
        bus = entry.text("bus", "")
        if bus and bus not in self.catalogue.buses:
            raise _unknown(f"{entry.where}: bus", bus, self.catalogue.buses)
        price, watts = entry.figure("price", sourced=False), entry.figure("watts", sourced=False)
        rent = entry.figure("rent", sourced=False)
        entry.done()
        if not self.tiers:
            raise UsageError(
                f"{entry.where} has no memory", remedy="Give cards, a box, or memory and ram"
            )
        if price is not None:
            self.unpriced = []
        elif self.prices:
            price = sum(self.prices[1:], self.prices[0]) * nodes
        known = [w for w in self.watts if w is not None]
        if watts is None and known and len(known) == len(self.watts):
            watts = sum(known[1:], known[0]) * nodes
        rents = [r for r in self.rents if r is not None]
        if rent is None and rents and len(rents) == len(self.rents):
            rent = sum(rents[1:], rents[0]) * nodes
        return Machine(
            self.name,
            title,
            tuple(self.tiers),
            nodes=nodes,
            link=link,
            split=split,
            bus=self.catalogue.buses[bus] if bus else None,
            watts=watts,
            price=price,
            rent=rent,
            unpriced=tuple(self.unpriced),
            sources=tuple(dict.fromkeys(self.sources)),
        )

    def _add(self, part: Part, kind: Kind, count: int, memory: float, usable: float) -> None:
        if usable < 0:
            found = self.catalogue.usable.get(kind.name.lower())
            usable = 1.0 if found is None else found.value
        self.tiers.append(Tier(kind, memory, part.bandwidth, count, usable, part.operations))
        self.watts.append(None if part.watts is None else part.watts * count)
        for figure in (part.memory, part.bandwidth, part.watts, part.price, part.price_per_gb):
            if figure is not None and figure.source:
                self.sources.append(f"{figure.source} ({figure.date})")

    def _cards(self, usable: float) -> None:
        cards = self.entry.counts("cards")
        if len(cards) > 1:
            raise self.entry.wrong("cards", "names several kinds; one kind is planned for")
        for name, count in cards.items():
            part = self.catalogue.part("cards", name, self.entry.where)
            assert part.memory is not None
            self._add(part, Kind.VRAM, count, part.memory.value, usable)
            self._price(part.price, count, part.title)
            self.rents.append(None if part.rent is None else part.rent * count)
            if "memory" not in self.entry and "ram" not in self.entry:
                self.unpriced.append("the server around the cards")

    def _box(self, usable: float) -> None:
        name = self.entry.text("box", "")
        if name:
            part = self.catalogue.part("boxes", name, self.entry.where)
            assert part.memory is not None
            self._add(part, Kind.UNIFIED, 1, part.memory.value, usable)
            self._price(part.price, 1, part.title)

    def _ram(self, usable: float) -> None:
        entry = self.entry
        name, sockets = entry.text("memory", ""), entry.count("sockets", 1, most=16)
        size = entry.number("ram", 0.0, above=1e6)
        bandwidth = entry.figure("ram_bandwidth", sourced=False)
        operations = entry.figure("ram_operations", sourced=False)
        if not size:
            if name:
                raise entry.wrong("ram", "is missing", "Bytes of memory, e.g. ram = 768e9")
            return
        if not name:
            if bandwidth is None:
                raise entry.wrong(
                    "memory", "is missing", "A name of [memory], or ram_bandwidth in bytes/s"
                )
            part = Part("memory", bandwidth, operations=operations)
        else:
            part = self.catalogue.part("memory", name, entry.where)
            if part.most is not None and size > part.most.value * sockets:
                raise entry.wrong("ram", f"is more than {sockets} x {part.most.value / 1e9:g} GB")
            part = Part(
                part.title,
                bandwidth or part.bandwidth * sockets,
                watts=None if part.watts is None else part.watts * sockets,
                price_per_gb=part.price_per_gb,
                operations=operations
                or (None if part.operations is None else part.operations * sockets),
            )
        self._add(part, Kind.RAM, 1, size, usable)
        per_gb = part.price_per_gb
        self._price(None if per_gb is None else per_gb * (size / 1e9), 1, f"memory ({part.title})")
        self.unpriced.append("processor, board and case")

    def _drives(self) -> None:
        override = self.entry.figure("disk_bandwidth", sourced=False)
        drives = self.entry.counts("drives")
        if len(drives) > 1:
            raise self.entry.wrong("drives", "names several kinds; one kind is planned for")
        for name, count in drives.items():
            part = self.catalogue.part("drives", name, self.entry.where)
            assert part.memory is not None
            size = part.memory.value
            if override is not None:
                part = Part(part.title, override, part.memory, part.watts, part.price)
            self._add(part, Kind.DISK, count, size, 1.0)
            self._price(part.price, count, part.title)

    def _price(self, price: Figure | None, count: int, what: str) -> None:
        if price is None:
            self.unpriced.append(what)
        else:
            self.prices.append(price * count)

    def _link(self, nodes: int) -> Link | None:
        name = self.entry.text("link", "")
        if not name:
            if nodes > 1:
                raise self.entry.wrong("link", "is missing: several nodes need one")
            return None
        if name not in self.catalogue.links:
            raise _unknown(f"{self.entry.where}: link", name, self.catalogue.links)
        return self.catalogue.links[name]


def read_catalogue(own: Path | None = None) -> Catalogue:
    """The packaged catalogue; entries of the user's own file replace those of the same name.

    Raises UsageError for a file that cannot be read or that says what makes no sense.
    """
    usable = Entry(read_toml(DATA / "efficiencies.toml")["usable"], "[usable]")
    shares = {name: usable.need(name) for name in usable.values}
    parts: dict[str, dict[str, Part]] = {s: {} for s in ("cards", "memory", "drives", "boxes")}
    links: dict[str, Link] = {}
    buses: dict[str, Figure] = {}
    machines: dict[str, Mapping[str, Any]] = {}
    rate: Figure | None = None
    files = [DATA / "catalogue.toml", *([] if own is None else [own])]
    for file in files:
        top = Entry(read_toml(file), file.name)
        sources = Entry(top.take("sources") or {}, f"{file.name}: [sources]").values
        money = Entry(top.take("currencies") or {}, f"{file.name}: [currencies]", sources)
        rate = money.figure("usd_per_eur") or rate
        money.done()
        for section in SECTIONS:
            entries = Entry(top.take(section) or {}, f"{file.name}: [{section}]").values
            for name, values in entries.items():
                entry = Entry(values, f"{file.name}: [{section}.{name}]", sources)
                if section in parts:
                    parts[section][name] = _part(entry, section)
                elif section == "links":
                    links[name] = Link(
                        entry.text("title", name), entry.need("latency"), entry.figure("collective")
                    )
                    entry.done()
                elif section == "buses":
                    entry.text("title", name)
                    buses[name] = entry.need("bandwidth")
                    entry.done()
                else:
                    machines[name] = entry.values
        top.done()
    catalogue = Catalogue(
        parts, links, buses, machines, shares, rate, tuple(file.name for file in files)
    )
    for name in machines:  # a wrong entry is said at once, not when somebody asks for it
        catalogue.machine(name)
    return catalogue


def read_machine(name: str, catalogue: Catalogue) -> Machine:
    """A name of the catalogue, or a TOML file with the keys of one [machines] entry."""
    file = Path(name)
    if name.endswith(".toml"):
        return catalogue.assemble(file.stem, read_toml(file))
    return catalogue.machine(name)


def _part(entry: Entry, section: str) -> Part:
    part = Part(
        entry.text("title", entry.where),
        entry.need("bandwidth"),
        memory=entry.figure("memory"),
        watts=entry.figure("watts"),
        price=entry.figure("price"),
        price_per_gb=entry.figure("price_per_gb"),
        rent=entry.figure("rent"),
        operations=entry.figure("operations"),
        most=entry.figure("most"),
    )
    entry.done()
    if section != "memory" and part.memory is None:
        raise entry.wrong("memory", "is missing")
    return part


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> UsageError:
    near = difflib.get_close_matches(name, known, 3, 0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return UsageError(f"{what} {name!r} is not known", remedy=f"{hint}Known: {', '.join(known)}")
