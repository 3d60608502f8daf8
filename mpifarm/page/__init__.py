"""The HTML page of a job, one file that needs nothing but itself."""
