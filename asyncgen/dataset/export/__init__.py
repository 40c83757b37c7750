"""A run's answers in the forms that other programs read; each file is written whole or not at all.

rows      the records of the job, in the order of the grid
files     CSV, JSONL, Parquet
folder    a Hugging Face dataset folder
card      what the folder says of itself
prepared  the prepared dataset as a folder: plain, or for a trainer
trainers  what each trainer is given, and the command that starts it
trainer_rows  the rows that each trainer learns only the answers from
train_with_trl, train_with_tinker  the scripts that go with the data, and stand by themselves
"""
