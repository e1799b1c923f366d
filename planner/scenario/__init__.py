"""Inputs of a plan as one value, changes of them as values, and what chips cost.

A change never edits a file or an object: it makes new inputs, checked like any file.
"""
