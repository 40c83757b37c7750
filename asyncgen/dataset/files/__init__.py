"""Files of samples as others write them, read as JSON values and made training examples.

    rows      a file of any kind -> rows of JSON values, each with its place
    json_rows, sheets   the kinds that take more to read: JSON and JSONL, Excel workbooks
    forms     which form a row is in by its keys (alpaca, ShareGPT, TRL's, pairs, chats), and the example it makes

A cell means what JSON means by it. What the legacy tool makes of the same files stands in `dataset.pairs`.
"""
