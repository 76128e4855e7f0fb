"""Which calls may run, and what a command line, a path or an address of a call means."""
