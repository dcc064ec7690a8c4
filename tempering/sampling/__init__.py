"""Sampling behind one interface: the decoder of this project, vLLM, and any OpenAI-compatible server."""
