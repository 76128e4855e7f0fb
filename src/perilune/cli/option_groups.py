"""Options that several commands share: a parameter that is a dataclass becomes an option a field.

    @app.command()
    @with_option_groups
    def chat(who: AgentFlags, rules: Annotated[RuleFlags, Without("recipe")]) -> None: ...

Options stand where the parameter stands, in the order of the fields, each with the field's own
annotation and default. A field that the command leaves out keeps its default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints


class Only:
    """Of a group, these options."""

    def __init__(self, *names: str) -> None:
        self.names = names


class Without:
    """Of a group, all options but these."""

    def __init__(self, *names: str) -> None:
        self.names = names


@dataclass(frozen=True, slots=True)
class _Group:
    kind: type[Any]
    taken: tuple[str, ...]


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer is to see it: groups taken apart into options, and made again at a call.

    Raises `TypeError` for an option that the group lacks.
    """
    groups: dict[str, _Group] = {}
    parameters: list[inspect.Parameter] = []
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        group = _group_of(hints[name])
        if group is None:
            parameters.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        groups[name] = group
        parameters.extend(_options(group))

    @wraps(command)
    def expanded(**given: Any) -> None:
        made = {
            name: group.kind(**{each: given.pop(each) for each in group.taken})
            for name, group in groups.items()
        }
        command(**given, **made)

    # What typer reads; the group's own parameters are not for it.
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {each.name: each.annotation for each in parameters}
    return expanded


def _group_of(hint: Any) -> _Group | None:
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return None
    names = tuple(each.name for each in fields(kind))
    for note in notes:
        if not isinstance(note, Only | Without):
            continue
        if unknown := set(note.names) - set(names):
            raise TypeError(f"{kind.__name__} has no option {sorted(unknown)[0]!r}")
        only = isinstance(note, Only)
        names = tuple(each for each in names if (each in note.names) is only)
    return _Group(kind, names)


def _options(group: _Group) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group.kind, include_extras=True)
    for field in fields(group.kind):
        if field.name in group.taken:
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
