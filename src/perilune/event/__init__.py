"""The kinds of events, and what they are made of; `perilune.events` names them all."""
