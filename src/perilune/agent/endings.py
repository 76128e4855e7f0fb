"""How a run ends when it does not end with an answer: typed exceptions, each with a named reason.

The loop raises one of these and never just stops; the reason goes into the journal's
`run.finished` and into the exit code of every interface.
"""

from __future__ import annotations

from perilune.errors import AgentError

DONE = "done"
UNVERIFIED = "unverified"
"""An answer was given, but a check still objects after all attempts; the problems are said."""
CONFLICT = "conflict"
"""The answer passed, but others changed the same files meanwhile; the changes are kept as a patch
and nothing was applied."""


class RunEnded(AgentError):
    """Base: the run ends here, with `reason` as its name."""

    code = "run_ended"
    reason = "ended"


class BudgetExceeded(RunEnded):
    """A budget is spent; `reason` is "budget:<which>", e.g. "budget:steps"."""

    code = "budget_exceeded"

    def __init__(self, which: str, spent: float, limit: float) -> None:
        self.which = which
        self.reason = f"budget:{which}"
        super().__init__(
            f"the run has used {spent:g} of {limit:g} {which}",
            remedy="Raise the budget and resume the run; nothing is lost.",
        )


class RepeatedCalls(RunEnded):
    """The model kept making the same calls with the same results despite reminders."""

    code = "repeated_calls"
    reason = "repeat"


class Interrupted(RunEnded):
    """A person (or the caller's cancellation) stopped the run."""

    code = "interrupted"
    reason = "interrupted"


class ModelFailed(RunEnded):
    """The model could not be reached, or refused, and retrying did not or cannot help."""

    code = "model_failed"
    reason = "model"


class ContextOverflow(RunEnded):
    """What must be shown to the model does not fit its window, whatever is left out."""

    code = "context_overflow"
    reason = "context"


class JournalFailed(RunEnded):
    """The journal cannot be written (a full disk, say); a run that leaves no trace is not run."""

    code = "journal_failed"
    reason = "journal"


class RunBusy(AgentError):
    """Another live process drives this run."""

    code = "run_busy"


class LeaseLost(JournalFailed):
    """Another process took the run over; this one must not write any more."""

    code = "lease_lost"
    reason = "lease"
