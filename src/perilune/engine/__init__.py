"""The engine: many requests to tokens.

Read in this order: `sampling_params`, `request`, `latent_cache`, `prefix_cache`, `scheduler`,
`batch`, `torch_forward` (and `native_forward`), `sampler`, `grammar`, `guide`, `text_memory`,
`speculation`, `detokenizer`, `engine`, then the faces `llm` and `async_engine`. `docs/engine.md`
walks one request through them.
"""
