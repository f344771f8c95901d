"""The command line: one file for each command. No other room imports typer, and none imports this room."""
