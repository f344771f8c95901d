"""The command line: one file for each command. Nothing else imports typer, and nothing imports this room."""
