"""The search: who is looked for and where, what a head finds, and how good that is."""
