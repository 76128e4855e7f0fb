"""What a run did, at rest: its events in one append-only stream, and the state folded of them."""
