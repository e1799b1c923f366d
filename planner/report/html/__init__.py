"""A plan as one offline HTML page, and the parts of it that a notebook shows."""
