"""The face: options in, tables and exit codes out. The only place that prints, parses or exits."""
