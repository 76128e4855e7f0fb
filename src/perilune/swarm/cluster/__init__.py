"""A swarm past one machine (the `cluster` extra): sub-agents as DBOS workflows on PostgreSQL.

The orchestrator puts each assignment on a queue; workers (`perilune worker`) take them. A
sub-agent's journal is the truth here too: it is written to the worker's disk and to the database,
so another worker can go on with it. DBOS distributes, and calls again what a dead worker left.
"""
