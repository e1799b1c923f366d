"""The version of the program, named once."""

VERSION = "0.1.0"
