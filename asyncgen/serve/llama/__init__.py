"""The engine with a real model: llama.cpp in a process of its own, with trained LoRA adapters over the base model.

Everything about llama.cpp and its model files is here. Its own HTTP server is never shown to clients: it listens on a
free loopback port and requires a key that only this process has.
"""
