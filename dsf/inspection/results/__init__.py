"""What an inspection found, as layers, tables and numbers."""
