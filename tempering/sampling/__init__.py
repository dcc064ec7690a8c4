"""Sampling: one interface over local models, vLLM and OpenAI-compatible servers.

types.py      requests, tokens, and the interface that every backend has; no torch
server.py     `ServerSampler`, any OpenAI-compatible server; wire.py asks until there is an answer, answers.py keeps answers
vllm.py       `VLLMSampler`, vLLM in this process
"""
