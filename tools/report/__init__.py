"""What a run found: its records, and how people see them."""
