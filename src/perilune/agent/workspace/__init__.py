"""The folder that a run works in: confined paths, snapshots, working copies, undo."""
