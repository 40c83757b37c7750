"""The local page over runs: what they hold, how they go, and which of their answers to keep.

`server` listens and says who may look; `routes` answers the page's questions from `runs`; `export` writes the same
page as files. Runs are read while others write them; all that is written here is a run's `reviewed.jsonl` and the votes
of an evaluation. The page itself is in `static/`: our scripts as they are, and the libraries bundled in `vendor.js`.
"""
