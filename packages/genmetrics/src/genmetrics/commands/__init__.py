"""The subcommands of ``genmetrics``, one module each: HELP, add_arguments, run."""
