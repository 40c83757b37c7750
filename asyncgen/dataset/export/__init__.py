"""A run's answers in the forms that other programs read; each file is written whole or not at all.

rows      the records of the job, in the order of the grid
files     CSV, JSONL, Parquet
folder    a Hugging Face dataset folder
card      what the folder says of itself
"""
