"""The page on which people are searched: a small server of this machine alone, and one file for a finished search."""
