"""Models of public packages that dsf was not written for, inspected and judged independently."""
