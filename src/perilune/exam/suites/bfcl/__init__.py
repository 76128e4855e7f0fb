"""The Berkeley Function-Calling Leaderboard, over the data and simulated APIs of `bfcl-eval`."""
