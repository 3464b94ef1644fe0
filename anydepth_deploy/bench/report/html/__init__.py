"""A report as one self-contained page: no network, no script, pictures and data in it."""

from anydepth_deploy.bench.report.html.page import write_html

__all__ = ["write_html"]
