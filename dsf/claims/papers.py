"""The papers, and which of their texts and programs were read.

Formulas were read in machine conversions of the papers.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One paper.

    Attributes:
        read: what was read.
        unread: what was not; nothing from there is quoted.
    """

    title: str
    arxiv: str
    read: str
    unread: str

    def __str__(self) -> str:
        return f"{self.title} (arXiv:{self.arxiv})"


PAPERS = {
    "DSF": Paper(
        title="Understanding the differences in Foundation Models",
        arxiv="2405.15731",
        read="the whole NeurIPS 2024 camera-ready text (OpenReview iF7MnXnxRw) with Appendices A "
        "to M, equations and captions; code IntelligentControlSystems/dsf-mqar@7c5aff8",
        unread="the bodies of Tables 1 to 3, footnotes, figures, version 1",
    ),
    "CDY": Paper(
        title="Design Principles via Coefficient Dynamics",
        arxiv="2510.09389",
        read="the abstract; four ICLR 2026 reviews (OpenReview 9uChwgWHX9), cited as R1 to R4; one "
        "machine-written summary",
        unread="the text",
    ),
    "EIG": Paper(
        title="Task-Level Insights from Eigenvalues",
        arxiv="2510.09379",
        read="the abstract; four ICLR 2026 reviews; code IntelligentControlSystems/"
        "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models@67d8254",
        unread="the text",
    ),
    "INL": Paper(
        title="Bridging the Divide: InLine attention",
        arxiv="2412.06590",
        read="the abstract; README and code LeapLabTHU/InLine@e463a6f; the first author's answers "
        "in issues 3, 4 and 9 of that repository; Propositions 1 and 2 as restated in "
        "Project-Navi/navi-SAD@137dc0c, docs/theory/capacity-gap.md; machine-written captions",
        unread="the text, with Propositions 1 to 3 and Appendix A.2",
    ),
    "MLA": Paper(
        title="MetaLA",
        arxiv="2411.10741",
        read="the whole NeurIPS 2024 text with its appendix and all tables; code "
        "BICLab/MetaLA@3353262",
        unread="figures",
    ),
    "ZER": Paper(
        title="ZeroS: zero-sum linear attention",
        arxiv="2602.05230",
        read="the whole main text (NeurIPS 2025; headings are cited, the copy has no section "
        "numbers); code LJC-FVNR/SequenceLab@cae594f",
        unread="the appendix, the bodies of Tables 1 to 3, figures, and the repository "
        "LJC-FVNR/ZeroS, which SequenceLab names as the paper's",
    ),
}
"""What the letters in front of a claim's number stand for."""
