"""The engine: many requests to tokens.

Read in this order: `sampling_params`, `request`, `page_allocator`, `prefix_cache`, `scheduler`,
`scheduler_output`, `prepare_inputs`, the package `perilune.runner` (`batch`, `pages`, `cache`,
`runner`, `torch_runner`), `apart`, `sampler`, `grammar`, `structured_output`, `text_memory`,
`speculation`, `detokenizer`, `outputs`, `input_processor`, `engine`, then `llm`,
`core_messages`, `core_loop`, `core_client` and `async_engine`.
`docs/engine.md` follows one request through them and explains the terms.
"""
