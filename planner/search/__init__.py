"""The search: an integer master over pipelines, columns on demand, and a proven lower bound.

Read in this order: ``space`` (what a stage may be), ``pipelines`` (the best pipeline for given
prices; ``uniform`` where layers are alike), ``columns`` (what a pipeline is worth), ``master``
(how many of which), ``bound`` (why nothing can be much better), ``relaxation`` (bound and prices of
one setting), ``planning`` (plans of one setting), ``regions`` (what couples the pipelines) and
``engine`` (branch and bound over them). ``compact`` is the oracle: the whole problem in one model.
"""
