"""The routes: each module reads requests of one kind, calls what does the work, and shapes the answer.

Owns HTTP. Does not keep anything and does not compute anything.
"""
