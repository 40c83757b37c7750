"""Files of prompts and completions, made fit for training as `fine_tunes.prepare_data` made them.

What is observed of that tool (`openai tools`, 0.27.8) is repeated here, down to the bytes written, so that
whoever used it gets the same file; each module tells which part of it is behaviour kept on purpose. Nothing
here needs pandas.

    read      a file of any of the six formats -> Table
    columns   which columns are prompt and completion
    facts     one pass over the rows: everything that the checks look at
    checks    facts -> findings, some with a remedy (ends_checks: on beginnings and ends)
    remedies  the changes to the rows
    write     the names and the bytes of the files
    prepare   the main path
"""
