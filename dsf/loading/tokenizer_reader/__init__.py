"""The child process that opens an untrusted tokenizer before this process does.

The libraries behind tokenizers are compiled; a damaged file can end the process that opens it.
"""
