"""A Postgres server: where it is, and one of one's own, open to other hosts on demand."""
