"""What the user's files may say: models, clusters and jobs, checked at the border."""
