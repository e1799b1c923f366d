"""Operator and layer graphs onto unlike devices: the graph-partition program and its solvers.

A package of its own beside the search: the search plans chains of layers on pipelines of many
chips, this plans a graph on one pipeline of single devices. It builds on nothing but the errors,
so that the readers of model files may use the exact methods that need no solver.

`problem` is the value, `reduce` makes it smaller without losing an optimum, `lattice` and
`prefix_model` solve contiguous stages, `interleaved_model` the others, `check` trusts none of
them, and `solve.partition` puts them together.
"""
