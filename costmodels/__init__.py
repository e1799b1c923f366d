"""Physics of training: seconds, bytes and FLOP/s of layers, collectives and memory.

Knows no graph, no input file, no solver. Everything here is a pure function of plain values.
"""
