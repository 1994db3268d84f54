"""The command line: options in, tables and exit codes out. Only this package parses and exits.

The function of a command is imported when it is called: torch takes seconds to import, and --help
must not wait for it.
"""
