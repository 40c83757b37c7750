"""The routes: each module parses requests of one kind, calls what does the work, and forms the answer.

Storage is left to `stores`, computing to the engines.
"""
