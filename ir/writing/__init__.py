"""The form in which a result is written: its operator set, its IR version, and what is said of its values."""
