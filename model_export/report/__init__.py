"""Report: an evaluation as one page that a marketer reads first and a data scientist to its end.

=========  ======================================================================================
material   what the folder holds, and which of it is drawn
words      names, numbers and verdicts in words; the summary for the console and the docs
answers    whom to contact, whether to believe a probability, value
people     cohorts, one-time buyers, groups
drift      what changed between the snapshots
tables     all numbers with intervals, errors by class, ablations, settings
plots      matplotlib → SVG that asks for nothing outside the page
markup     escaped HTML
page       the order of it all
=========  ======================================================================================
"""

from model_export.report.page import write_report
from model_export.report.wording import summary

__all__ = ["summary", "write_report"]
