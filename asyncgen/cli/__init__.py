"""The command line: parse, call one function, print, exit. The only room that prints or reads the environment."""
