"""What every package needs from the machine: threads, files, argument and size checks."""
