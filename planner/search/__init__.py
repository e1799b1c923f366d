"""The search: an integer master over pipelines, columns on demand, and a proven lower bound.

Read in this order: ``space`` (what a stage may be), ``pipelines`` (the best pipeline for given
prices), ``columns`` (what a pipeline is worth), ``master`` (how many of which), ``bound`` (why
nothing can be much better), ``engine`` (the loop over settings that couple the pipelines).
"""
