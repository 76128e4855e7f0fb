"""rich's console, with a cursor that stays visible.

rich hides the cursor while a spinner turns. A program that is killed then leaves it hidden, and
nobody is left who could show it again.
"""

from __future__ import annotations

from rich.console import Console


class SafeConsole(Console):
    """A console that never hides the cursor."""

    def show_cursor(self, show: bool = True) -> bool:
        return super().show_cursor(show) if show else False
