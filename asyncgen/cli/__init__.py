"""The command line: parse, call one function, print, exit. The only package that prints or reads the environment."""
