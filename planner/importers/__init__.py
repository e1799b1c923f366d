"""From what people have to cluster, layout and job files.

Every importer reads one format and says in its result what the file told, what the options told
and what nobody told. What a format cannot say is asked for by naming the option that says it; it
is never guessed. The result has passed the same checks as a file that somebody wrote by hand.
"""
