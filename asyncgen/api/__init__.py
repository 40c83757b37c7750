"""asyncgen from Python: jobs, runs, and what the commands do, as functions.

Nothing here prints, asks or handles a signal. Errors are `AsyncgenError` and its kinds. A run that was begun here goes
on from the command line, and the other way round: directory, lock and promises are the same. The public names are
those of `asyncgen/__init__.py`; how each stage works is left to the packages below.
"""
