"""What is to be done: the job file, its grid, templates and keys. Reads files, and does no other I/O."""
