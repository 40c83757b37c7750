"""A local OpenAI-compatible server over a small model or a simulation.

HTTP in `api` and `app`, data on disk in `stores`, background work in `tuning` and `batches`, and two engines (`llama`,
`simulation`) behind one interface (`engine`). It shares nothing with the packages that send requests: any client will
do.
"""
