"""MuonClip: Muon for matrices, AdamW for the rest, QK-Clip after each step."""
