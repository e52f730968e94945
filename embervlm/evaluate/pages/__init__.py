"""What people look at: the page of an evaluation, of a comparison, and the report of a run."""
