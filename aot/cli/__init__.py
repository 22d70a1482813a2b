"""The ``aot`` command: `main` finds the command, a file each does the work, `options` holds what they share."""
