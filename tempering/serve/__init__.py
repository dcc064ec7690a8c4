"""`temper serve`: a model behind the HTTP interface that OpenAI's clients speak, on this machine by default.

A request goes through the files in this order: `app` (routes, key, limits), `fields` (what a body may say), `jobs` (bodies become rows to decode),
`engine` (the one thread that owns the decoder), `text` (tokens become text) and `answers` (rows become JSON). `run` opens the port and closes it.

Source of the interface: OpenAI's API reference for completions and chat completions. Where it leaves room we do what vLLM's server does, so that
clients written for one work with the other: `top_k`, and `return_tokens_as_token_ids`, with which log-probs carry exact token ids.
"""
