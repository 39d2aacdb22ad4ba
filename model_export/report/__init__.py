"""Report: shows an evaluation as one page, which a marketer reads first and a data scientist to its end.

===========  ====================================================================================
inputs       what the evaluation folder holds, and which part of it is plotted
wording      names, numbers and verdicts in words; the summary for the console and the docs
answers      whom to contact, whether a probability can be believed, what users are worth
people       cohorts, one-time buyers, groups
drift        what changed between the snapshots
tables       all numbers with intervals, errors by class, ablations, settings
plots        matplotlib → SVG that needs nothing outside the page
markup       HTML elements, made from ``templates/``, which escape all text
page         puts the sections in order
===========  ====================================================================================
"""

from model_export.report.page import write_report
from model_export.report.wording import summary

__all__ = ["summary", "write_report"]
