"""The loop, in reading order:

`session` (an open run takes tasks) -> `run` (what a living run has) -> `loop` (what comes next is
read off the state) -> `think` (one completion) -> `act` (the tool calls of a turn) -> `verify` (a
proposed answer is checked) -> `handing_over` (the changes of a run on a copy) and `taking_over`
(the same, later and from outside).
"""
