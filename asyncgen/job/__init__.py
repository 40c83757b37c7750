"""The job: its file, grid, templates and request keys. Reads files, and does no other I/O."""
