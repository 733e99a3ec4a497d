"""The command line: parse, call, print; one module a command or a family of commands."""
