"""A group of options is what its fields would be, written out: in the help, given and left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from perilune.agent.settings import AgentSettings
from perilune.cli.agent_flags import AgentFlags, RuleFlags, settings_of
from perilune.cli.option_groups import Only, Without, with_option_groups

Size = Annotated[int, typer.Option("--size", min=1, help="How large.")]
Names = Annotated[list[str] | None, typer.Option("--name", "-n", help="Repeatable.")]


@dataclass(frozen=True)
class Shape:
    size: Size = 3
    names: Names = None
    flat: Annotated[bool, typer.Option("--flat", help="Without height.")] = False


def app_of(command: object) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command("draw")(command)  # type: ignore[type-var]
    return app


def grouped(first: str, shape: Shape = Shape(), last: bool = False) -> None:
    """Draw it."""
    print(first, shape.size, shape.names, shape.flat, last)


def written_out(
    first: str,
    size: Size = 3,
    names: Names = None,
    flat: Annotated[bool, typer.Option("--flat", help="Without height.")] = False,
    last: bool = False,
) -> None:
    """Draw it."""
    print(first, size, names, flat, last)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["x"],
        ["x", "--size", "7", "-n", "a", "--name", "b", "--flat", "--last"],
        ["x", "--size", "0"],
        ["--flat"],
    ],
)
def test_it_is_as_if_it_were_written_out(arguments: list[str]) -> None:
    one = CliRunner().invoke(app_of(with_option_groups(grouped)), arguments)
    other = CliRunner().invoke(app_of(written_out), arguments)
    assert (one.exit_code, one.output) == (other.exit_code, other.output)


def test_a_command_takes_some_of_a_group() -> None:
    def few(shape: Annotated[Shape, Only("size")] = Shape()) -> None:
        print(shape)

    def rest(shape: Annotated[Shape, Without("size")] = Shape()) -> None:
        print(shape)

    for command, has, lacks in ((few, "--size", "--flat"), (rest, "--flat", "--size")):
        app = app_of(with_option_groups(_typed(command)))
        shown = CliRunner().invoke(app, ["--help"]).output
        assert has in shown and lacks not in shown
        assert str(Shape()) in CliRunner().invoke(app, []).output


def test_an_option_that_the_group_lacks_is_refused_when_the_command_is_made() -> None:
    def wrong(shape: Annotated[Shape, Only("sise")] = Shape()) -> None:
        print(shape)

    with pytest.raises(TypeError, match="sise"):
        with_option_groups(_typed(wrong))


def _typed(command):  # type: ignore[no-untyped-def]  # its annotations, evaluated here
    names = {"Shape": Shape, "Only": Only, "Without": Without, "Annotated": Annotated}
    command.__annotations__ = {
        name: eval(note, names) if isinstance(note, str) else note
        for name, note in command.__annotations__.items()
    }
    return command


def test_every_setting_is_a_flag() -> None:
    """A new setting that no flag sets, or a flag that sets nothing, is noticed."""
    who = AgentFlags(model="m", endpoint="e", api_key_env="k", tools="t", mcp=["a=b"])
    rules = RuleFlags(
        effort="low", recipe="none", max_steps=1, max_tokens=2, thinking_tokens=3,
        max_seconds=4.0, allow=["a"], ask=["b"], deny=["c"], context_strategy="keep",
        context_window=2048, sandbox="landlock", no_snapshot=True,
    )  # fmt: skip
    said = settings_of(who, rules).kept
    assert set(said) == set(AgentSettings.__struct_fields__) - {"recipe_why"}
    assert settings_of(AgentFlags(), RuleFlags()).kept == {}
