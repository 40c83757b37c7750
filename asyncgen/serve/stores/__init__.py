"""The server's data on disk: files, models, fine-tuning jobs and batches, each as the API's object.

Work on them is left to `tuning` and `batches`. A missing object is an `ApiError`, because every caller would make one
of it.
"""
