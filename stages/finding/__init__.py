"""One person found in pictures: the gallery that is kept, who is asked for, and how the answer is shown."""
