"""The local page over runs: what they hold, how they go, and which of their answers to keep.

`server` listens and answers the page's requests from `runs`; `access` checks who may use it; `export` writes the same
page as files. Runs are read while other processes write them; only a run's `reviewed.jsonl` and the votes of an
evaluation are written here. The page itself is in `static/`: our scripts without a build step, and the libraries
bundled in `vendor.js`.
"""
