"""The engine: many requests to tokens.

Read in this order: `sampling_params`, `request`, `page_allocator`, `prefix_cache`, `scheduler`,
`batch`, the room `perilune.runner` (`batch`, `cache`, `runner`, `torch_runner`), `apart`,
`sampler`, `grammar`, `guide`, `text_memory`, `speculation`, `detokenizer`, `engine`, then `llm`
and `async_engine`. `docs/engine.md` walks one request through them.
"""
