"""Systems handed to compiled loops on a processor, as the bare arrays those take."""
