"""A sweep: variants of a head, trained in rounds of one reading each, and the table over them."""
