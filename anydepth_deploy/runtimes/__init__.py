"""What executes artifacts: the protocol (:mod:`~anydepth_deploy.runtimes.engine`), one row for
each runtime (:mod:`~anydepth_deploy.runtimes.registry`), and a module or folder for each."""
