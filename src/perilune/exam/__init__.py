"""Independent verification of any endpoint, ours or another: contracts, fresh problems, load."""
