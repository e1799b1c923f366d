"""The commands of the command line: each parses, calls, writes, and says how it ended."""
