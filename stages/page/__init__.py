"""The report's page: what it reads, what it says, and how that becomes one file of HTML."""
