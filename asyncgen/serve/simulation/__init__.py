"""The engine without a model: rehearsals, tests and benchmarks against it cost nothing.

Owns made-up answers, made-up training figures, and the bad weather of real APIs: limits, latency, faults.
Everything that it makes says that it is simulated.
"""
