"""The simulated engine: rehearsals, tests and benchmarks against it cost nothing.

Made-up answers, made-up training metrics, and the limits, latency and faults of real APIs. Everything that it makes
says that it is simulated.
"""
