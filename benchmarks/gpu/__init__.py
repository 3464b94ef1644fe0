"""Everything of this project that needs an NVIDIA GPU, in steps that run alone: ``make gpu``.

    python -m benchmarks.gpu --list
    python -m benchmarks.gpu --step 'tensorrt-*' --within 540
    python -m benchmarks.gpu --pack

From the root of the checkout, with the package installed or not. Only the standard library is used
here; the package is driven by its command line, in processes of their own, so that the crash of one
command does not end the others. No step has been run on a GPU: all are **unverified**, and so is
what they check.

``steps`` is the table, and where a step is added; ``work`` what steps have in common; ``step`` what
a step is and what it can do; ``needs`` what a step may need; ``device`` what is here; ``probe``
looks for it; ``runner`` runs steps, keeps their results and does not repeat them; ``results`` and
``summary`` are the files, ``sending`` packs them.
"""
