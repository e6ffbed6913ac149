"""Properties with verdicts and the evidence for them."""

from dsf.certificates.certificate import Certificate, Level, Verdict

__all__ = ["Certificate", "Level", "Verdict"]
