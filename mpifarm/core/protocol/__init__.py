"""What is said inside a run and to its queue: messages between roles, actions, verbs, rows of facts."""
