"""Which tasks are meant: conditions, templates of names, and options that go together. Pure."""
