"""What the server keeps on disk: files, models, fine-tuning jobs and batches, each as the API's own object.

Owns the objects' fields and where they lie. Does no work on them and knows no HTTP; a missing one is an
`ApiError`, since every caller would make one of it.
"""
