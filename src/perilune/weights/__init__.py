"""Checkpoints on disk <-> tensors: safetensors, storage formats, integrity, conversion.

Reading order: header (one file) -> tensor_table (what must be there) -> checkpoint (a folder) ->
stored (modules that hold stored tensors) -> load; write -> convert, random_weights; verify. The
formats themselves are a package below, `perilune.formats`.
"""
