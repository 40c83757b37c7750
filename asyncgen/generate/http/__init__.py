"""One attempt: the client, the reading of replies, errors explained."""
