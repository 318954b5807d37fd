"""The `casam` command line; Typer and rich live only here."""
