"""``python -m anydepth_deploy``: the command line."""

from anydepth_deploy.cli import main

main()
