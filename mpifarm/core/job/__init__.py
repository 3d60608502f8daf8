"""What a job wants of its tasks: policy, retries, what is kept and captured, what a command line means. Pure."""
