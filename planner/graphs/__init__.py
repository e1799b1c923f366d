"""Model graph and cluster topology: what the planner reasons about, free of file formats."""
