"""The other end of the wire: a local server of the OpenAI shape, over a small model or a simulation.

Owns the HTTP side (`api`, `app`), what is kept on disk (`stores`), the work that goes on between requests
(`tuning`, `batching`) and the two engines (`llama`, `simulation`) behind one seam (`engine`). Does not know
the rooms that send the requests: it could be any client.
"""
