"""The engine with a real model: llama.cpp in a process of its own, trained adapters on top of the base model.

Owns everything that knows llama.cpp or GGUF files. Its own server is never shown to clients: it listens on a free
loopback port and wants a key that only this process knows.
"""
