"""Sampling: one interface over local models, vLLM and OpenAI-compatible servers.

    types.py      requests, tokens, and the interface that every backend has; no torch
    decoder.py    `Decoder`, continuous batching over one policy: submit, step, cancel
    passes.py     one forward pass over rows of unequal length: all at once where a model can, row by row where it cannot
    cache.py      keys and values in preallocated slots, and the attention that reads them
    weights.py    a copy of a model's weights in another precision, packed for the processor
    fused.py      Llama's blocks with fewer operations, for that copy
    choose.py     logits -> the next token and its log-prob: temperature, top-k, nucleus
    noise.py      random numbers that are a function of (seed, key, sample, position)
    chain.py      what a policy needs while it decodes: roles, the decode chain, stop tokens
    server.py     `ServerSampler`, any OpenAI-compatible server
    wire.py       one question to such a server, asked until it is answered;  answers.py  answers on disk
    vllm.py       `VLLMSampler`, vLLM in this process

`tempering.sample.sample` is the function most callers want.
"""
