"""One attempt at a request: the client, the reading of replies, and errors explained to the user."""
