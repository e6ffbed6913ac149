"""The result of an inspection: its layers, the quantities of their maps, and tables."""
