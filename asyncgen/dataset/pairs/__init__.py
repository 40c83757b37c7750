"""Files of prompts and completions, made fit for training as `fine_tunes.prepare_data` made them.

What is observed of that tool (`openai tools`, 0.27.8) is repeated here, down to the bytes written, so that
whoever used it gets the same file; each module tells which part of it is behaviour kept on purpose. Nothing
here needs pandas. It holds for `--format completion` alone: chats are made by `prepare_file` and `files`.

    read_tables, read_json   a file of any of the formats -> PairTable
    table     rows and columns; which columns are prompt and completion
    facts     one pass over the rows: everything that the checks look at
    checks    facts -> findings, some with a remedy
    remedies  the changes to the rows
    write     the names and the bytes of the files
    prepare   the main path
"""
