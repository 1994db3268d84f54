"""The command line: options in, tables and exit codes out. Only this package parses and exits."""
